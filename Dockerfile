# Headrace in a small image. `docker run IMAGE serve` is how SageMaker starts a container, so the entry point is `headrace`.
#
#   docker build -t headrace .
#   docker run -p 8080:8080 headrace                                  serves the bundled digits model
#   docker run -p 8080:8080 -v $PWD/mymodel:/opt/ml/model headrace    serves a model of yours
#
# docs/deploy-docker.md says how to turn an image of yours over. tests/e2e/test_dockerfile.py executes the steps.

ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN pip wheel --no-cache-dir --wheel-dir /wheels /src

FROM python:${PYTHON}-slim
LABEL org.opencontainers.image.title="headrace" \
      org.opencontainers.image.description="Many Python models behind one HTTP port, over shared memory" \
      org.opencontainers.image.licenses="Apache-2.0"
# What SageMaker looks for: that several models may share the container, and that it may choose the port.
LABEL com.amazonaws.sagemaker.capabilities.multi-models=true \
      com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --no-index --find-links /wheels headrace \
 && rm -rf /wheels \
 && useradd --create-home --uid 1000 headrace
USER headrace
WORKDIR /home/headrace
ENV HEADRACE_HOST=0.0.0.0 \
    HEADRACE_LOG_FORMAT=json \
    PYTHONUNBUFFERED=1
EXPOSE 8080 8081
HEALTHCHECK --interval=10s --timeout=2s --start-period=60s \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('HEADRACE_PORT', os.environ.get('SAGEMAKER_BIND_TO_PORT', '8080'))}/ping\", timeout=2)"]
ENTRYPOINT ["headrace"]
CMD ["serve"]
