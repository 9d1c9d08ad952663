# One static binary in an empty image, for amd64 and arm64:
#
#     docker build -t ebbtide:0.1.0 .
#     docker buildx build --platform linux/amd64,linux/arm64 -t ebbtide:0.1.0 .
#
# There are no certificate authorities in it. A controller reached by https needs its authority
# mounted and named with --controller-ca; a cluster's own is what one wants there anyway.

# Always built on the builder's own architecture, and cross-compiled: emulation takes an hour.
FROM --platform=$BUILDPLATFORM rust:1.95.0-bookworm AS build
ARG TARGETARCH
WORKDIR /src

# The C compiler is for ring's assembly and for the linker; libc6-dev-*-cross brings the static glibc.
RUN set -eu; \
    case "$TARGETARCH" in \
      amd64) arch=x86_64  package=gcc-x86-64-linux-gnu  libc=libc6-dev-amd64-cross ;; \
      arm64) arch=aarch64 package=gcc-aarch64-linux-gnu libc=libc6-dev-arm64-cross ;; \
      *) echo "no build for TARGETARCH=$TARGETARCH: amd64 and arm64 are known" >&2; exit 1 ;; \
    esac; \
    echo "$arch" > /arch; \
    if [ "$arch" != "$(uname -m)" ]; then \
      apt-get update; \
      apt-get install -y --no-install-recommends "$package" "$libc"; \
      rm -rf /var/lib/apt/lists/*; \
    fi; \
    rustup target add "$arch-unknown-linux-gnu"

COPY . .

# What was downloaded and the compiled dependencies stay in the builder's caches; the caches are not
# in the image, hence the copy. See docs/decisions/static-glibc.md for what is static.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,id=ebbtide-target-$TARGETARCH,target=/src/target \
    set -eu; \
    arch=$(cat /arch); target=$arch-unknown-linux-gnu; \
    upper=$(echo "$target" | tr 'a-z-' 'A-Z_'); \
    export "CARGO_TARGET_${upper}_LINKER=$arch-linux-gnu-gcc"; \
    export "CC_$(echo "$target" | tr - _)=$arch-linux-gnu-gcc"; \
    make static TARGET="$target"; \
    cp "target/$target/release/ebbtide" /ebbtide

FROM scratch
LABEL org.opencontainers.image.title="ebbtide" \
      org.opencontainers.image.description="The sidecar proxy that lets a pod's connections ebb away instead of breaking" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /ebbtide /ebbtide
# A number, because there is no /etc/passwd, and because runAsNonRoot can only check a number.
USER 65532:65532
# Probes, metrics and hooks. The listeners' ports are yours, and the control port is on loopback.
EXPOSE 17701
# No shell is there to wrap it: it is the first process and gets the SIGTERM.
ENTRYPOINT ["/ebbtide"]
