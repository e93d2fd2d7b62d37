// Package hostname says which names hosts can have. A host name is a DNS label, because
// it is also the value of the label kubernetes.io/hostname and the name that guests see.
package hostname

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Server is a DNS name that every host's certificate carries, so that an API client can
// verify any host without knowing its name. No host can have it.
const Server = "virtmesh"

// maxLength is the length of the longest host name.
const maxLength = 63

// Validate returns an error if name cannot be a host name. Host names are lower-case DNS
// labels of at most 63 characters; some names are reserved.
func Validate(name string) error {
	switch {
	case name == "":
		return errors.New("host name is empty")
	case len(name) > maxLength:
		return fmt.Errorf("host name %q has %d characters, at most %d are allowed", Clip(name), len(name), maxLength)
	case name == "localhost" || name == Server:
		return fmt.Errorf("host name %q is reserved", name)
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return fmt.Errorf("host name %q is an address", name)
	}
	if !IsLabel(name) {
		return fmt.Errorf("host name %q: only lower-case letters, digits and '-' are allowed, and it must begin and end with a letter or digit", Clip(name))
	}
	return nil
}

// IsLabel reports whether s is a DNS label in lower case.
func IsLabel(s string) bool { return IsDNSName(s) && !strings.Contains(s, ".") }

// IsDNSName reports whether s is a sequence of lower-case DNS labels.
func IsDNSName(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
				return false
			}
		}
	}
	return s != ""
}

// Clip shortens a name that somebody else chose before it is quoted in a message.
func Clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}
