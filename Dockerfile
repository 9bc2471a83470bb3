# The binary is static and needs nothing but certificates for rediss://.
FROM golang:1.26-bookworm AS build
WORKDIR /src
# The module may want a newer patch release than the image has.
ENV GOTOOLCHAIN=auto
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/crossfade ./cmd/crossfade \
 && mkdir -p -m 0700 /out/root/state

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/crossfade /crossfade
# The state file and the admin socket are in the working directory by default:
# mount a volume there, or a restart must find its way from the servers alone.
COPY --from=build --chown=65532:65532 /out/root/ /
WORKDIR /state
VOLUME /state
USER 65532:65532
EXPOSE 6380
# By the socket in the working directory; with another --admin, set CROSSFADE_ADMIN.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["/crossfade", "status"]
ENTRYPOINT ["/crossfade"]
CMD ["help"]
