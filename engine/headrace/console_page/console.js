// The console: asks /overview and /metrics every two seconds and draws what they say.
//
// Whatever comes from the server becomes text (textContent), never markup: names, reasons and tracebacks are models'.
// The token stays in this page's memory. Buttons that change something are there only after the server took the token.

import { squarify } from "./treemap.js";
import { buckets, growth, parse, quantile, together } from "./metrics.js";

const EVERY_MS = 2000;
const WINDOW = 6; // scrapes that rates and quantiles look back over
const TREE_MOST = 200; // models drawn one by one
const ROWS_MOST = 500;
const $ = (id) => document.getElementById(id);

let token = "";
let mayChange = false;
let scrapes = []; // {at, metrics}
let latest = null;
let selected = null;
let sort = { by: "charge", down: true };

function el(tag, fields = {}, ...children) {
  const made = Object.assign(document.createElement(tag), fields);
  made.append(...children.filter((child) => child !== null));
  return made;
}

async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(token ? { authorization: `Bearer ${token}` } : {}) };
  return fetch(path, { ...options, headers, cache: "no-store" });
}

async function askJson(path, options) {
  const response = await ask(path, options);
  const document = await response.json().catch(() => null);
  if (!response.ok) throw Object.assign(new Error(document?.message ?? `status ${response.status}`), { status: response.status });
  return document;
}

const path = (...words) => "/" + words.map(encodeURIComponent).join("/");

function size(bytes) {
  for (const [power, unit] of [[4, "TiB"], [3, "GiB"], [2, "MiB"], [1, "KiB"]]) {
    if (Math.abs(bytes) >= 1024 ** power) return `${(bytes / 1024 ** power).toFixed(1)} ${unit}`;
  }
  return `${Math.round(bytes)} B`;
}

function seconds(s) {
  if (s === null || s === undefined) return "–";
  if (s < 0.001) return `${Math.round(s * 1e6)} µs`;
  if (s < 1) return `${(s * 1000).toFixed(s < 0.01 ? 2 : 1)} ms`;
  if (s < 60) return `${s.toFixed(1)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} m ${Math.floor(s % 60)} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} m`;
}

const rate = (value) => (value >= 100 ? Math.round(value).toLocaleString("en") : value.toFixed(value >= 10 ? 1 : 2));

// What the last scrapes say, by model; null before there are two.
function traffic() {
  if (scrapes.length < 2) return null;
  const [first, last] = [scrapes[0], scrapes[scrapes.length - 1]];
  const passed = (last.at - first.at) / 1000;
  const per = (grown) => new Map([...grown].map(([key, value]) => [key, value / passed]));
  const times = buckets(first.metrics, last.metrics, "headrace_request_seconds", "model");
  return {
    requests: per(growth(first.metrics, last.metrics, "headrace_requests_total", "model")),
    errors: per(growth(first.metrics, last.metrics, "headrace_requests_total", "model", ({ status }) => /^[45]/.test(status))),
    busy: per(growth(first.metrics, last.metrics, "headrace_worker_busy_seconds_total", "worker")),
    times,
    all: together(times),
  };
}

const total = (map) => [...map.values()].reduce((sum, value) => sum + value, 0);

function drawTiles(seen, now) {
  const resident = seen.models.filter((model) => model.workers.length).length;
  const { used_bytes: used, limit_bytes: limit } = seen.memory;
  const tile = (title, value, note) => el("div", { className: "tile" }, el("span", { className: "faint", textContent: title }),
    el("b", { textContent: value }), el("span", { className: "faint", textContent: note }));
  $("tiles").replaceChildren(
    tile("Memory", `${Math.round((100 * used) / limit)} %`, `${size(used)} of ${size(limit)}`),
    tile("Requests", now ? `${rate(total(now.requests))}/s` : "–", now ? `${rate(total(now.errors))}/s errors` : "measuring"),
    tile("Latency p50", seconds(now ? quantile(now.all, 0.5) : null), "all models"),
    tile("Latency p99", seconds(now ? quantile(now.all, 0.99) : null), "all models"),
    tile("Models", `${resident}`, `loaded, of ${seen.models.length + seen.models_left_out}`),
    tile("Workers", `${seen.workers.filter((worker) => worker.is_up).length}`, `up, of ${seen.workers.length}`),
  );
}

function kindOf(model) {
  if (["failed", "quarantined"].includes(model.status)) return "bad";
  if (["loading", "unloading"].includes(model.status)) return "loading";
  return model.in_flight ? "busy" : "";
}

function drawTree(seen) {
  const memory = seen.memory;
  const models = seen.models.filter((model) => model.charge_bytes > 0);
  const items = models.slice(0, TREE_MOST).map((model) => ({ size: model.charge_bytes, title: model.name, model, kind: kindOf(model) }));
  const rest = models.slice(TREE_MOST).reduce((sum, model) => sum + model.charge_bytes, 0);
  const add = (bytes, title, kind) => bytes > 0 && items.push({ size: bytes, title, kind });
  add(rest, "smaller models", "");
  add(memory.reserved_bytes, "loads under way", "loading");
  add(memory.used_bytes - memory.charged_bytes - memory.reserved_bytes, "processes, shared memory", "others");
  add(memory.limit_bytes - memory.used_bytes, "free", "free");
  items.sort((a, b) => b.size - a.size);
  const box = $("treemap");
  const focused = document.activeElement?.dataset?.model;
  const cells = squarify(items, box.clientWidth, box.clientHeight).map(({ item, x, y, width, height }) => {
    const cell = el(item.model ? "button" : "div", { className: `cell ${item.kind}`, title: `${item.title}: ${size(item.size)}` });
    if (width > 46 && height > 22) cell.append(el("span", { textContent: item.title }));
    if (width > 46 && height > 38) cell.append(el("span", { className: "size", textContent: size(item.size) }));
    if (width <= 46 || height <= 22) cell.classList.add("tiny");
    Object.assign(cell.style, { left: `${x}px`, top: `${y}px`, width: `${width}px`, height: `${height}px` });
    if (item.model) {
      cell.dataset.model = item.model.name;
      cell.onclick = () => select(item.model.name);
    }
    return cell;
  });
  box.replaceChildren(...cells);
  if (focused !== undefined) cells.find((cell) => cell.dataset.model === focused)?.focus();
  $("memory-note").textContent = `${size(memory.charged_bytes)} charged to models, ${size(memory.used_bytes)} used of ${size(memory.limit_bytes)}`;
  const keys = [["resident", "loaded"], ["busy", "has requests"], ["loading", "loading"], ["bad", "failed or set aside"],
    ["others", "processes"], ["free", "free"]];
  $("legend").replaceChildren(...keys.map(([key, title]) => el("li", {}, el("i", { className: `key-${key}` }), title)));
}

function drawWorkers(seen, now) {
  $("workers").replaceChildren(...seen.workers.map((worker) => {
    const busy = Math.min(1, now?.busy.get(String(worker.worker)) ?? 0);
    const fill = el("i");
    fill.style.width = `${Math.round(100 * busy)}%`;
    const doing = worker.at ? `${worker.state} ${worker.at} for ${seconds(worker.since_s)}` : worker.state;
    const cpus = worker.cpus ? `, CPU ${worker.cpus.join(", ")}` : "";
    const whose = worker.owner ? `, for ${worker.owner} alone` : `, ${worker.models} models`;
    return el("div", { className: "worker" },
      el("span", { textContent: `Worker ${worker.worker}` }), el("div", { className: "bar", title: "busy share" }, fill),
      el("span", { className: "number", textContent: worker.is_up ? `${Math.round(100 * busy)} %` : "down" }),
      el("span", { className: "about", textContent: `${doing}${whose}, ${size(worker.memory_bytes)}${cpus}, pid ${worker.pid}` }));
  }));
}

const COLUMNS = [
  ["name", "Model", (model) => model.name],
  ["status", "Status", (model) => model.status],
  ["replicas", "Replicas", (model) => model.workers.length],
  ["charge", "Memory", (model) => model.charge_bytes],
  ["rate", "Requests/s", (model, now) => now?.requests.get(model.name) ?? 0],
  ["errors", "Errors/s", (model, now) => now?.errors.get(model.name) ?? 0],
  ["p50", "p50", (model, now) => quantile(now?.times.get(model.name), 0.5) ?? -1],
  ["p99", "p99", (model, now) => quantile(now?.times.get(model.name), 0.99) ?? -1],
  ["idle", "Idle", (model) => model.idle_s ?? Infinity],
  ["reason", "Reason", (model) => model.reason],
];

const NUMBERS = new Set(["replicas", "charge", "rate", "errors", "p50", "p99", "idle"]);

function drawModels(seen, now) {
  const head = el("tr", {}, ...COLUMNS.map(([key, title]) => el("th", { className: NUMBERS.has(key) ? "number" : "", ariaSort: sort.by === key ? (sort.down ? "descending" : "ascending") : "none" },
    el("button", { type: "button", textContent: title + (sort.by === key ? (sort.down ? " ▾" : " ▴") : ""), onclick: () => {
      sort = { by: key, down: sort.by === key ? !sort.down : !["name", "status", "reason"].includes(key) };
      draw();
    } }))));
  const value = COLUMNS.find(([key]) => key === sort.by)[2];
  const order = (a, b) => {
    const [x, y] = [value(a, now), value(b, now)];
    return (x < y ? -1 : x > y ? 1 : 0) * (sort.down ? -1 : 1) || (a.name < b.name ? -1 : 1);
  };
  const kinds = { resident: "good", failed: "bad", quarantined: "bad", loading: "warm", unloading: "warm" };
  const rows = [...seen.models].sort(order).slice(0, ROWS_MOST).map((model) => {
    const times = now?.times.get(model.name);
    const number = (text) => el("td", { className: "number", textContent: text });
    return el("tr", {},
      el("td", { className: "name" }, el("button", { type: "button", textContent: model.name, onclick: () => select(model.name) })),
      el("td", {}, el("span", { className: `pill ${kinds[model.status] ?? ""}`, textContent: model.status })),
      number(`${model.workers.length}/${model.most}`), number(model.charge_bytes ? size(model.charge_bytes) : "–"),
      number(now?.requests.has(model.name) ? rate(now.requests.get(model.name)) : "–"),
      number(now?.errors.has(model.name) ? rate(now.errors.get(model.name)) : "–"),
      number(seconds(quantile(times, 0.5))), number(seconds(quantile(times, 0.99))), number(seconds(model.idle_s)),
      el("td", { className: "reason faint", textContent: model.reason }));
  });
  $("models").replaceChildren(el("thead", {}, head), el("tbody", {}, ...rows));
  const hidden = seen.models.length + seen.models_left_out - rows.length;
  $("models-note").textContent = hidden > 0 ? `${rows.length} shown, ${hidden} more` : "";
  const names = seen.models.map((model) => model.name).sort();
  const chooser = $("try-model");
  if (names.join() !== [...chooser.options].map((option) => option.value).join()) {
    const chosen = chooser.value;
    chooser.replaceChildren(...names.map((name) => el("option", { value: name, textContent: name })));
    if (names.includes(chosen)) chooser.value = chosen;
  }
}

const event = (it) => el("tr", {}, el("td", {}, el("time", { textContent: it.time.slice(0, 19).replace("T", " ") })),
  el("td", { className: "name", textContent: it.model }), el("td", { textContent: it.event.replace("_", " ") }),
  el("td", { className: "number", textContent: it.bytes ? size(it.bytes) : "–" }),
  el("td", { className: "number", textContent: seconds(it.idle_s) }), el("td", { className: "reason", textContent: it.reason }));

const eventTable = (events) => [
  el("thead", {}, el("tr", {}, ...["Time (UTC)", "Model", "Event", "Memory", "Idle for", "Reason"].map((textContent) =>
    el("th", { textContent, className: ["Memory", "Idle for"].includes(textContent) ? "number" : "" })))),
  el("tbody", {}, ...events.map(event)),
];

function draw() {
  if (!latest) return;
  const now = traffic();
  const server = latest.server;
  $("identity").textContent = `${server.version}, pid ${server.pid}, up ${seconds(server.time - server.started)}`;
  drawTiles(latest, now);
  drawTree(latest);
  drawWorkers(latest, now);
  drawModels(latest, now);
  $("history").replaceChildren(...eventTable(latest.history));
  $("load").hidden = $("unload").hidden = !mayChange;
  $("token-form").hidden = server.token === "none";
}

async function select(name) {
  selected = name;
  $("detail").hidden = false;
  $("detail-name").textContent = name;
  if ([...$("try-model").options].some((option) => option.value === name)) $("try-model").value = name;
  await explain();
  $("detail").scrollIntoView({ block: "nearest" });
}

async function explain() {
  const name = selected;
  if (name === null) return;
  let parts;
  try {
    const told = await askJson(path("models", name, "explain"));
    parts = [el("ul", {}, el("li", { textContent: `status: ${told.status}` }), ...told.because.map((textContent) => el("li", { textContent })))];
    const memory = told.memory;
    if (memory) {
      parts.push(el("h3", { textContent: "Memory" }), el("p", { className: "faint", textContent:
        `charged ${size(memory.charge_bytes)}; a replica took ${memory.replica_bytes ? size(memory.replica_bytes) : "nothing yet"}; ` +
        `files have ${size(memory.artifact_bytes)}; a load would reserve ${size(memory.estimate_bytes)}` }));
    }
    if (told.room) {
      parts.push(el("h3", { textContent: "To load it" }), el("p", { textContent: told.room.verdict }),
        el("ul", {}, ...told.room.evict.map((it) => el("li", { textContent: `${it.model} would go: ${size(it.charge_bytes)}, idle ${seconds(it.idle_s)}` }))));
    }
    if (told.errors.length) parts.push(el("h3", { textContent: "Last errors" }));
    for (const error of told.errors) {
      const where = error.worker === null ? "" : ` on worker ${error.worker}`;
      parts.push(el("p", { textContent: `${error.time} ${error.event}${where}, ${error.count}×: ${error.error}` }));
      if (error.traceback) parts.push(el("pre", { textContent: error.traceback }));
    }
    if (told.history.length) {
      parts.push(el("h3", { textContent: "History" }), el("div", { className: "scroll short" }, el("table", {}, ...eventTable(told.history))));
    }
  } catch (error) {
    parts = [el("p", { textContent: error.message })];
  }
  if (selected === name) $("detail-body").replaceChildren(...parts);
}

function notice(text) {
  $("notice").hidden = !text;
  $("notice").textContent = text;
}

async function look() {
  try {
    const [seen, text] = await Promise.all([askJson("/overview"), ask("/metrics").then((response) => response.text())]);
    latest = seen;
    scrapes = [...scrapes, { at: performance.now(), metrics: parse(text) }].slice(-WINDOW);
    $("link").textContent = mayChange ? "live, may change" : "live, read-only";
    $("link").className = "pill good";
    if ($("notice").dataset.why === "link") notice("");
    draw();
  } catch (error) {
    const locked = error.status === 401;
    $("link").textContent = locked ? "locked" : "no answer";
    $("link").className = "pill bad";
    $("notice").dataset.why = "link";
    notice(locked ? "This server shows itself only to whoever has its token: enter it above." : `The server does not answer: ${error.message}`);
  }
}

async function loop() {
  if (!document.hidden) await look();
  setTimeout(loop, EVERY_MS);
}

$("token-form").onsubmit = async (submitted) => {
  submitted.preventDefault();
  token = $("token").value;
  $("token").value = "";
  // There is no POST /overview: with the right token the answer is 405, with a wrong one 401.
  const response = await ask("/overview", { method: "POST" });
  mayChange = token !== "" && response.status === 405;
  if (!mayChange) token = "";
  $("notice").dataset.why = "token";
  notice(mayChange ? "" : "The server does not take this token.");
  await look();
};

$("try").onsubmit = async (submitted) => {
  submitted.preventDefault();
  const began = performance.now();
  $("try-status").textContent = "sent";
  try {
    const response = await ask(path("console", "predict", $("try-model").value), {
      method: "POST", body: $("try-body").value, headers: { "content-type": $("try-type").value, accept: $("try-accept").value },
    });
    const text = await response.text();
    $("try-status").textContent = `${response.status} in ${seconds((performance.now() - began) / 1000)}, ${response.headers.get("content-type") ?? "no content type"}`;
    $("try-answer").textContent = text.length > 100000 ? `${text.slice(0, 100000)}…` : text;
    $("try-answer").hidden = false;
  } catch (error) {
    $("try-status").textContent = `no answer: ${error.message}`;
  }
};

$("load").onsubmit = async (submitted) => {
  submitted.preventDefault();
  $("load-status").textContent = "loading";
  try {
    await askJson("/models", { method: "POST", headers: { "content-type": "application/json" },
      body: JSON.stringify({ model_name: $("load-name").value, url: $("load-url").value }) });
    $("load-status").textContent = "loaded";
  } catch (error) {
    $("load-status").textContent = error.message;
  }
  await look();
};

$("unload").onclick = async () => {
  if (!confirm(`Unload ${selected}?`)) return;
  try {
    await askJson(path("models", selected), { method: "DELETE" });
    $("detail").hidden = true;
    selected = null;
  } catch (error) {
    notice(error.message);
  }
  await look();
};

$("detail-close").onclick = () => {
  $("detail").hidden = true;
  selected = null;
};

addEventListener("resize", () => latest && drawTree(latest));
loop();
