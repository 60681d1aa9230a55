# shellcheck shell=bash disable=SC2154
# The classic nucleus, on Java, as a system service of Amazon Linux 2023. Comes behind nucleus_java.sh and before user_data.sh,
# see there.
export SERVICE=greengrass
PACKAGES=(java-17-amazon-corretto-headless nftables openssl "python$EDGEWRIGHT_PYTHON" unzip)

install_packages() {
  if rpm --query --quiet "${PACKAGES[@]}"; then return; fi
  retry dnf install --assumeyes --quiet "${PACKAGES[@]}"
}

prepare_nucleus() {
  read_version java -jar "$scratch/nucleus/lib/Greengrass.jar" --version
}

start_nucleus() {
  java -Droot="$ROOT" -Dlog.store=FILE -jar "$scratch/nucleus/lib/Greengrass.jar" \
    --init-config "$ROOT/config.yaml" --component-default-user ggc_user:ggc_group --setup-system-service true
}
