#!/bin/sh
# Makes an OCI image layout of a small Debian userland: the static busybox of Debian's package with a link for each of its
# commands, and Debian's own os-release. Needs no root and no network; the same busybox makes the same bytes.
# usage: scripts/debian-image.sh DIRECTORY [BUSYBOX]
set -eu
out=$1 busybox=${2:-/bin/busybox}
[ ! -e "$out" ] || { echo "debian-image.sh: $out exists" >&2; exit 1; }
work=$(mktemp -d "${TMPDIR:-/tmp}/bunker-image.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root

mkdir -p "$root/etc" "$root/home" "$root/dev" "$root/proc" "$root/sys" "$root/var/tmp" "$root/tmp" "$root/root"
for directory in bin sbin usr/bin usr/sbin; do mkdir -p "$root/$directory"; done
cp "$busybox" "$root/bin/busybox"
"$busybox" --list-full | while IFS= read -r applet; do
  [ "$applet" = bin/busybox ] || "$busybox" ln -s /bin/busybox "$root/$applet"
done
cp /usr/lib/os-release "$root/etc/os-release" 2>/dev/null || echo 'PRETTY_NAME="busybox"' >"$root/etc/os-release"
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n' >"$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
printf 'This root file system came out of an OCI image made of Debian packages.\n' >"$root/etc/motd"
chmod -R u=rwX,go=rX "$root"
chmod 755 "$root/bin/busybox"
chmod 700 "$root/root"
chmod 1777 "$root/tmp" "$root/var/tmp"

# One layer, written the same way every time.
tar --sort=name --format=ustar --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$root" -cf "$work/layer.tar" .
gzip -n -1 <"$work/layer.tar" >"$work/layer.tar.gz"

digest() { sha256sum "$1" | cut -d ' ' -f 1; }
size() { wc -c <"$1" | tr -d ' '; }
mkdir -p "$work/layout/blobs/sha256"
# Moves a file to where its digest says and prints its descriptor.
blob() {
  descriptor="{\"mediaType\":\"$1\",\"digest\":\"sha256:$(digest "$2")\",\"size\":$(size "$2")}"
  mv "$2" "$work/layout/blobs/sha256/$(digest "$2")"
  echo "$descriptor"
}
cat >"$work/config" <<END
{"architecture":"amd64","os":"linux","created":"1970-01-01T00:00:00Z",
 "config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["/bin/sh"],"WorkingDir":"/root"},
 "rootfs":{"type":"layers","diff_ids":["sha256:$(digest "$work/layer.tar")"]}}
END
config=$(blob application/vnd.oci.image.config.v1+json "$work/config")
layer=$(blob application/vnd.oci.image.layer.v1.tar+gzip "$work/layer.tar.gz")
echo "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"config\":$config,\"layers\":[$layer]}" >"$work/manifest"
manifest=$(blob application/vnd.oci.image.manifest.v1+json "$work/manifest")
echo "{\"schemaVersion\":2,\"manifests\":[$manifest]}" >"$work/layout/index.json"
echo '{"imageLayoutVersion":"1.0.0"}' >"$work/layout/oci-layout"
mv "$work/layout" "$out"
