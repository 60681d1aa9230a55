# shellcheck shell=bash disable=SC2154
# The classic nucleus in a container of Amazon Linux 2023. Comes behind nucleus_java.sh and before user_data.sh, see there.
# AWS's own image is not developed any more and has no published digest: the image is made here, from the distribution's
# signed packages and the pinned nucleus. Identity and state live in ROOT on the host, so they outlive the container.
export SERVICE=docker
export TMPDIR="${TMPDIR:-/var/tmp}" # /tmp is memory, which the image would fill
PACKAGES=(docker nftables openssl unzip)
IN_IMAGE=(bash coreutils java-17-amazon-corretto-headless procps-ng "python$EDGEWRIGHT_PYTHON" shadow-utils sudo)
IMAGE=edgewright-greengrass
CONTAINER=greengrass

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
  read_version docker run --rm "$IMAGE" java -jar /opt/greengrass/lib/Greengrass.jar --version
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
