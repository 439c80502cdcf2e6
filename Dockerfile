# The job in an image. The layers come in the order in which they change: Python, torch, packages,
# those of one's own network, code, data, spec. A new spec makes only the last one new.
#
#   docker build --target cpu --build-arg SPEC=docker/smoke.json -t evengrad:cpu .
#   make image SPEC=spec.json TARGET=cuda      the same, with the spec's SHA-256 as a label

# A tag, so that any registry or mirror will do; docker/base-images.env has it by digest.
ARG PYTHON=python:3.11-slim-bookworm

# --- what both targets share ----------------------------------------------------------------------

FROM --platform=linux/amd64 ${PYTHON} AS base
# TLS to S3 and RunPod needs the certificates. The user's UID is below 65536, because some registries
# and hosts do not unpack files with a higher one.
RUN test -s /etc/ssl/certs/ca-certificates.crt \
 && useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin job \
 && install -d -o job -g job /runs
# The root file system may be read-only: only /tmp and the store are written. /runs is the default
# store.
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp EVENGRAD_STORE=/runs \
    PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /app
# Healthy while the trainer's liveness file is fresh; exec form, so no shell stands between.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-m", "job.run.liveness"]
# The supervisor is PID 1: signals reach it, and it reaps.
ENTRYPOINT ["python", "-m", "job.supervise"]

# The code, readable by the job's user whatever the checkout's modes are.
FROM base AS code
COPY job /app/job
RUN chmod -R a+rX /app

# --- torch, and what it is installed with ---------------------------------------------------------

# What torch needs, the same for each of its builds: all that is left to resolve is CUDA's libraries,
# which torch's wheel pins itself.
FROM base AS under-torch
RUN --mount=type=bind,source=torch.lock,target=/torch.lock \
    pip install --require-hashes --no-deps --no-build-isolation -r /torch.lock

FROM under-torch AS torch-cpu
# PyTorch's own index has builds without CUDA, a twentieth of the size. Empty: PyPI alone.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch==2.13.0

FROM under-torch AS torch-cuda
# PyPI's wheel brings CUDA's libraries, so a slim base suffices; the driver is the host's. Three
# equals signs exclude a build for the CPU that pip may find, which is called 2.13.0+cpu.
ARG TORCH_CUDA=torch===2.13.0
RUN pip install "$TORCH_CUDA"

FROM torch-cpu AS packages-cpu
RUN --mount=type=bind,source=requirements.lock,target=/requirements.lock \
    pip install --require-hashes --no-deps --no-build-isolation -r /requirements.lock

FROM torch-cuda AS packages-cuda
RUN --mount=type=bind,source=requirements.lock,target=/requirements.lock \
    pip install --require-hashes --no-deps --no-build-isolation -r /requirements.lock

# --- what a network of one's own needs -----------------------------------------------------------

# The requirements.txt beside the file that the spec names; else nothing. A stage of its own, so that
# the packages are installed anew only when it changes.
FROM packages-cpu AS required-cpu
COPY --from=code /app /app
ARG SPEC=docker/smoke.json
RUN --mount=type=bind,target=/context python -m job.bake --requirements "/context/$SPEC" /required

FROM packages-cuda AS required-cuda
COPY --from=code /app /app
ARG SPEC=docker/smoke.json
RUN --mount=type=bind,target=/context python -m job.bake --requirements "/context/$SPEC" /required

# What is installed already stays as it is: a requirement that contradicts it fails the build.
FROM packages-cpu AS own-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=bind,from=required-cpu,source=/required,target=/required \
    if [ -f /required/requirements.txt ]; then \
        pip list --format=freeze > /tmp/installed \
     && pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
            -c /tmp/installed -r /required/requirements.txt \
     && rm /tmp/installed; \
    fi

FROM packages-cuda AS own-cuda
RUN --mount=type=bind,from=required-cuda,source=/required,target=/required \
    if [ -f /required/requirements.txt ]; then \
        pip list --format=freeze > /tmp/installed \
     && pip install -c /tmp/installed -r /required/requirements.txt \
     && rm /tmp/installed; \
    fi

# --- the spec, checked with the very packages that will run it ------------------------------------

FROM own-cpu AS baked-cpu
COPY --from=code /app /app
ARG SPEC=docker/smoke.json
ARG SPEC_SHA256
ARG REVISION
ARG CUDA_VERSION=none
# An invalid spec, or missing data, fails the build here, with the validator's messages.
RUN --mount=type=bind,target=/context python -m job.bake "/context/$SPEC" /baked

FROM own-cuda AS baked-cuda
COPY --from=code /app /app
ARG SPEC=docker/smoke.json
ARG SPEC_SHA256
ARG REVISION
ARG CUDA_VERSION=13.0
RUN --mount=type=bind,target=/context python -m job.bake "/context/$SPEC" /baked

# --- the images -----------------------------------------------------------------------------------

FROM own-cpu AS cpu
# The code changes more often than the packages, and less often than the spec.
COPY --from=code /app /app
# The spec's data, which a new spec leaves alone, and the spec with the image's description.
COPY --from=baked-cpu /baked/data /job
COPY --from=baked-cpu /baked/spec /job
USER job
# A build cannot compute its labels: `make image` gives them, and the step above has checked them.
ARG SPEC_SHA256="see /job/build.json"
ARG REVISION="see /job/build.json"
LABEL org.opencontainers.image.title=evengrad \
      org.opencontainers.image.version=0.1.0 \
      org.opencontainers.image.revision=$REVISION \
      org.opencontainers.image.licenses=Apache-2.0 \
      evengrad.spec.sha256=$SPEC_SHA256 \
      evengrad.torch=2.13.0 \
      evengrad.cuda=none

FROM own-cuda AS cuda
COPY --from=code /app /app
COPY --from=baked-cuda /baked/data /job
COPY --from=baked-cuda /baked/spec /job
USER job
ARG SPEC_SHA256="see /job/build.json"
ARG REVISION="see /job/build.json"
LABEL org.opencontainers.image.title=evengrad \
      org.opencontainers.image.version=0.1.0 \
      org.opencontainers.image.revision=$REVISION \
      org.opencontainers.image.licenses=Apache-2.0 \
      evengrad.spec.sha256=$SPEC_SHA256 \
      evengrad.torch=2.13.0 \
      evengrad.cuda=13.0
