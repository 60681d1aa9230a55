# shellcheck shell=bash disable=SC2154
# The classic nucleus in a container of Amazon Linux 2023. Comes before user_data.sh, see there.
# AWS's own image is not developed any more and has no published digest: the image is made here, from the distribution's
# signed packages and the pinned nucleus. Identity and state live in ROOT on the host, so they outlive the container.
ROOT="${EDGEWRIGHT_ROOT:-/greengrass/v2}"
export CA_BUNDLE="${EDGEWRIGHT_CA_BUNDLE:-/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem}"
export SERVICE=docker
export TMPDIR="${TMPDIR:-/var/tmp}" # /tmp is memory, which the image would fill
PACKAGES=(docker unzip)
IN_IMAGE=(bash coreutils java-17-amazon-corretto-headless procps-ng python3.11 shadow-utils sudo)
IMAGE=edgewright-greengrass
CONTAINER=greengrass
version=""

install_packages() {
  if ! rpm --query --quiet "${PACKAGES[@]}"; then retry dnf install --assumeyes --quiet "${PACKAGES[@]}"; fi
  systemctl enable --now docker
}

prepare_nucleus() {
  local rootfs="$scratch/rootfs"
  retry dnf install --assumeyes --quiet --installroot "$rootfs" --releasever 2023 --setopt install_weak_deps=False \
    "${IN_IMAGE[@]}"
  mkdir -p "$rootfs/opt/greengrass"
  cp -r "$scratch/nucleus/." "$rootfs/opt/greengrass/"
  tar --create --directory "$rootfs" . | docker import - "$IMAGE" >/dev/null
  version="$(docker run --rm "$IMAGE" java -jar /opt/greengrass/lib/Greengrass.jar --version)"
  version="${version##*v}"
  if [[ ! "$version" =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]]; then fail "the nucleus must tell its version as vN.N.N, got $version"; fi
}

# $1 data endpoint, $2 credential endpoint
write_config() {
  cat >"$ROOT/config.yaml" <<END
---
system:
  certificateFilePath: "$ROOT/device.pem.crt"
  privateKeyPath: "$ROOT/private.pem.key"
  rootCaPath: "$ROOT/root_ca.pem"
  rootpath: "$ROOT"
  thingName: "$EDGEWRIGHT_THING_NAME"
services:
  aws.greengrass.Nucleus:
    componentType: "NUCLEUS"
    version: "$version"
    configuration:
      awsRegion: "$EDGEWRIGHT_REGION"
      iotRoleAlias: "$EDGEWRIGHT_ROLE_ALIAS"
      iotDataEndpoint: "$1"
      iotCredEndpoint: "$2"
END
}

# The installer sets the root folder up; the loader, which restarts the nucleus after an update of itself, is what runs.
start_nucleus() {
  local run=(docker run --init --network host --volume "$ROOT:$ROOT")
  docker rm --force "$CONTAINER" >/dev/null 2>&1 || true
  "${run[@]}" --rm "$IMAGE" bash -c "groupadd --system ggc_group; useradd --system --gid ggc_group ggc_user;
    java -Droot='$ROOT' -Dlog.store=FILE -jar /opt/greengrass/lib/Greengrass.jar --init-config '$ROOT/config.yaml' \
      --component-default-user ggc_user:ggc_group --setup-system-service false --start false"
  "${run[@]}" --detach --restart always --name "$CONTAINER" "$IMAGE" \
    bash -c "groupadd --system ggc_group; useradd --system --gid ggc_group ggc_user;
      exec sh '$ROOT/alts/current/distro/bin/loader'"
  for _ in {1..5}; do
    sleep 2
    if [[ "$(docker inspect --format '{{.State.Running}} {{.RestartCount}}' "$CONTAINER")" != "true 0" ]]; then
      fail "the container $CONTAINER must run on, it ended: $(docker logs --tail 3 "$CONTAINER" 2>&1 | tr '\n' ' ')"
    fi
  done
}
