# Sourced by the build steps. Nothing of this enters a layer.
#
# Where extra CA certificates were given as a build secret (a company's proxy, say), the package
# managers of this step trust them too. Where the lock names a snapshot of Debian's archive, apt
# takes it instead of the base image's own sources; the index of a snapshot is old by nature.
extra=/run/secrets/ca-certificates
snapshot=/build/snapshot.list
if [ -s "$extra" ] || [ -e "$snapshot" ]; then
    APT_CONFIG=$(mktemp)
    export APT_CONFIG
fi
if [ -s "$extra" ]; then
    export SSL_CERT_FILE="$extra" PIP_CERT="$extra"
    printf 'Acquire::https::CAInfo "%s";\n' "$extra" >> "$APT_CONFIG"
fi
if [ -e "$snapshot" ]; then
    printf 'Dir::Etc::SourceList "%s";\nDir::Etc::SourceParts "-";\n' "$snapshot" >> "$APT_CONFIG"
    printf 'Acquire::Check-Valid-Until "false";\n' >> "$APT_CONFIG"
fi
