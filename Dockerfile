# The tracker. Settings come from the environment (PEERSERVERS_SECTION__KEY) or a mounted file (PEERSERVERS_CONFIG).
# Arguments are those of `peerservers`: docker run --rm peerservers check wss://tracker.example.org
FROM python:3.12-slim AS build

WORKDIR /src
# gcc compiles the modules on the path of every message. Without them, the wheel would not be one for Linux, and `ls` fails.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY tracker tracker
COPY extensions extensions
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . && ls /wheels/*-linux_*.whl
RUN python -m venv --without-pip /opt/peerservers \
    && pip --python /opt/peerservers install --no-cache-dir /wheels/*.whl

FROM python:3.12-slim

# The id is fixed, so that mounted files can be given to this user.
RUN groupadd --gid 10001 peerservers \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/peerservers peerservers \
    && install --directory --owner=peerservers --group=peerservers --mode=0700 /var/lib/peerservers
COPY --from=build /opt/peerservers /opt/peerservers

ENV PATH=/opt/peerservers/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PEERSERVERS_SERVER__STATE_DIR=/var/lib/peerservers

USER 10001:10001
WORKDIR /var/lib/peerservers
# The identity key, and the state of the DHT node.
VOLUME /var/lib/peerservers
EXPOSE 8000 6881/udp
STOPSIGNAL SIGTERM
# Reads the same settings as the tracker, to use the right port, with or without TLS.
HEALTHCHECK --interval=30s --timeout=5s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import http.client, os, pathlib, ssl, sys; from tracker.config import load; file = os.environ.get('PEERSERVERS_CONFIG'); settings = load(file and pathlib.Path(file)); address = '127.0.0.1', settings.server.port; connection = http.client.HTTPSConnection(*address, timeout=4, context=ssl._create_unverified_context()) if settings.tls.certificate else http.client.HTTPConnection(*address, timeout=4); connection.request('GET', '/health'); sys.exit(connection.getresponse().status != 200)"]
ENTRYPOINT ["peerservers"]
CMD ["serve"]
