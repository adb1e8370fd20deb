/* A Python module that lets the N-th allocation of this thread fail, whichever of Python's allocators it asks.
 *
 *   start(n)     the n-th one made while counting fails, once; n = 0: none does
 *   count(bool)  begins or ends counting: what lies between is the code under test
 *   stop()       -> (allocations counted, whether one failed)
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

enum { DOMAINS = 3 };
static const PyMemAllocatorDomain domains[DOMAINS] = {PYMEM_DOMAIN_RAW, PYMEM_DOMAIN_MEM, PYMEM_DOMAIN_OBJ};
static PyMemAllocatorEx real[DOMAINS];
static unsigned long thread, wanted, counted;
static int is_counting;

/* Other threads may ask the raw allocator without holding the GIL: they see another thread's number here, and no more. */
static int strikes(void) {
    if (PyThread_get_thread_ident() != thread || !is_counting) return 0;
    return ++counted == wanted;
}

static void *hook_malloc(void *at, size_t size) {
    PyMemAllocatorEx *a = at;
    return strikes() ? NULL : a->malloc(a->ctx, size);
}

static void *hook_calloc(void *at, size_t count, size_t size) {
    PyMemAllocatorEx *a = at;
    return strikes() ? NULL : a->calloc(a->ctx, count, size);
}

static void *hook_realloc(void *at, void *old, size_t size) {
    PyMemAllocatorEx *a = at;
    return strikes() ? NULL : a->realloc(a->ctx, old, size);
}

static void hook_free(void *at, void *old) {
    PyMemAllocatorEx *a = at;
    a->free(a->ctx, old);
}

static PyObject *start(PyObject *self, PyObject *args) {
    (void)self;
    unsigned long n;
    if (!PyArg_ParseTuple(args, "k", &n)) return NULL;
    thread = PyThread_get_thread_ident();
    wanted = n;
    counted = 0;
    is_counting = 0;
    for (int i = 0; i < DOMAINS; i++) {
        PyMem_GetAllocator(domains[i], &real[i]);
        PyMemAllocatorEx hook = {&real[i], hook_malloc, hook_calloc, hook_realloc, hook_free};
        PyMem_SetAllocator(domains[i], &hook);
    }
    Py_RETURN_NONE;
}

static PyObject *count(PyObject *self, PyObject *on) {
    (void)self;
    is_counting = on == Py_True;
    Py_RETURN_NONE;
}

static PyObject *stop(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    is_counting = 0;
    for (int i = 0; i < DOMAINS; i++) PyMem_SetAllocator(domains[i], &real[i]);
    return Py_BuildValue("(kO)", counted, wanted && counted >= wanted ? Py_True : Py_False);
}

static PyMethodDef methods[] = {
    {"start", start, METH_VARARGS, NULL},
    {"count", count, METH_O, NULL},
    {"stop", stop, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "nth_allocation", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit_nth_allocation(void) { return PyModule_Create(&module); }
