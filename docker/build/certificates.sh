# Sourced by the build steps: where extra CA certificates were given as a build secret (a company's
# proxy, say), the package managers of this step trust them too. They never enter a layer.
extra=/run/secrets/ca-certificates
if [ -s "$extra" ]; then
    export SSL_CERT_FILE="$extra" PIP_CERT="$extra"
    APT_CONFIG=$(mktemp)
    export APT_CONFIG
    printf 'Acquire::https::CAInfo "%s";\n' "$extra" > "$APT_CONFIG"
fi
