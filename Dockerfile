# The tracker. Settings come from the environment (PEERSERVERS_SECTION__KEY) or a mounted file (PEERSERVERS_CONFIG).
# Arguments are those of `peerservers`: docker run --rm peerservers check wss://tracker.example.org
FROM python:3.12-slim AS build

WORKDIR /src
# gcc compiles the modules on the path of every message. Without them, the wheel would not be one for Linux, and `ls` fails.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY tracker tracker
COPY extensions extensions
COPY docs/man docs/man
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . && ls /wheels/*-linux_*.whl
RUN python -m venv --without-pip /opt/peerservers \
    && pip --python /opt/peerservers install --no-cache-dir /wheels/*.whl

FROM python:3.12-slim

LABEL org.opencontainers.image.title="Peerservers" \
    org.opencontainers.image.description="A WebTorrent tracker whose extensions let peers meet across trackers" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.source="https://github.com/peerservers/peerservers" \
    org.opencontainers.image.documentation="https://github.com/peerservers/peerservers/blob/main/docs/deploy.md"

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
HEALTHCHECK --interval=30s --timeout=5s --start-period=15s --retries=3 CMD ["peerservers", "health"]
ENTRYPOINT ["peerservers"]
CMD ["serve"]
