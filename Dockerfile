# The job in an image, its layers in the order in which they change: Python, torch, packages, code,
# data, spec. A new spec makes only the last one new.
#
#   docker build --target cpu --build-arg SPEC=docker/smoke.json -t evengrad:cpu .
#   make image SPEC=spec.json TARGET=cuda      the same, with the spec's SHA-256 as a label

ARG PYTHON=python:3.11-slim-bookworm

# --- what both targets share ----------------------------------------------------------------------

FROM --platform=linux/amd64 ${PYTHON} AS base
# TLS to S3 and RunPod needs the certificates; a user of its own needs a UID below 65536, as some
# registries and hosts do not unpack files of a higher one.
RUN test -s /etc/ssl/certs/ca-certificates.crt \
 && useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin job \
 && install -d -o job -g job /runs
# The root file system may be read-only: nothing but /tmp and the store is written. /runs is the
# store where no other is named.
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp EVENGRAD_STORE=/runs
WORKDIR /app
# Fresh as long as the trainer's heartbeat is; exec form, so no shell stands between.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-m", "job.heartbeat"]
# The supervisor is PID 1: signals reach it, and it reaps.
ENTRYPOINT ["python", "-m", "job.supervise"]

# The packages of pyproject.toml but torch, at the versions of constraints.txt.
FROM base AS wanted
COPY pyproject.toml constraints.txt /wanted/
RUN python -c "import tomllib; p = tomllib.load(open('/wanted/pyproject.toml', 'rb'))['project']; \
    print(*p['dependencies'], *p['optional-dependencies']['torchjd'], sep='\n')" \
    > /wanted/packages.txt

# The code, readable by the job's user whatever the checkout's modes are.
FROM base AS code
COPY job /app/job
RUN chmod -R a+rX /app

# --- torch, and what it is installed with ---------------------------------------------------------

FROM base AS torch-cpu
# PyTorch's own index has builds without CUDA, a twentieth of the size. Empty: PyPI alone.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch==2.13.0

FROM base AS torch-cuda
# PyPI's wheel brings CUDA's libraries, so a slim base suffices; the driver is the host's. Three
# equals signs: no build for the CPU that pip may find, which is called 2.13.0+cpu.
ARG TORCH_CUDA=torch===2.13.0
RUN pip install --no-cache-dir "$TORCH_CUDA"

FROM torch-cpu AS packages-cpu
RUN --mount=type=bind,from=wanted,source=/wanted,target=/wanted \
    pip install --no-cache-dir -c /wanted/constraints.txt -r /wanted/packages.txt

FROM torch-cuda AS packages-cuda
RUN --mount=type=bind,from=wanted,source=/wanted,target=/wanted \
    pip install --no-cache-dir -c /wanted/constraints.txt -r /wanted/packages.txt

# --- the spec, checked with the very packages that will run it ------------------------------------

FROM packages-cpu AS baked-cpu
COPY --from=code /app /app
ARG SPEC=docker/smoke.json
ARG SPEC_SHA256
ARG REVISION
ARG CUDA_VERSION=none
# An invalid spec, or one whose data is not there, fails the build here, in the validator's words.
RUN --mount=type=bind,target=/context python -m job.bake "/context/$SPEC" /baked

FROM packages-cuda AS baked-cuda
COPY --from=code /app /app
ARG SPEC=docker/smoke.json
ARG SPEC_SHA256
ARG REVISION
ARG CUDA_VERSION=13.0
RUN --mount=type=bind,target=/context python -m job.bake "/context/$SPEC" /baked

# --- the images -----------------------------------------------------------------------------------

FROM packages-cpu AS cpu
# The code changes more often than the packages, and less often than the spec.
COPY --from=code /app /app
# The spec's data, which a new spec leaves alone, and the spec with what the image says of itself.
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

FROM packages-cuda AS cuda
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
