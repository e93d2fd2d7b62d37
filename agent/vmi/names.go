package vmi

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// maxName bounds the names of machines. Files are named after them, with a few
// letters added, and a file name has at most 255.
const maxName = 200

// BoundedName returns name, or if it has more than limit letters its beginning
// and a hash of all of it, which together have limit letters. Different names stay
// different. limit must be at least 20.
//
// Every name that is built from object names and limited in length must be made by this
// function: the names of domains, and so of their logs, sockets and firmware files.
func BoundedName(name string, limit int) string {
	if len(name) <= limit {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	hash := hex.EncodeToString(sum[:8])
	return name[:limit-len(hash)-1] + "-" + hash
}

// HostLabel returns the host name of an object of the given name: its first label, cut
// at the 63 letters that a label may have. DNS uses the same name.
func HostLabel(name string) string {
	label, _, _ := strings.Cut(name, ".")
	if len(label) > validation.DNS1123LabelMaxLength {
		label = label[:validation.DNS1123LabelMaxLength]
	}
	return strings.TrimRight(label, "-")
}

// Hostname returns what the guest is told to call itself, by DHCP and by
// cloud-init: spec.hostname, or else the HostLabel of its name.
func Hostname(vmi *kubevirtv1.VirtualMachineInstance) string {
	if vmi.Spec.Hostname != "" {
		return vmi.Spec.Hostname
	}
	return HostLabel(vmi.Name)
}

func validateName(name string) field.ErrorList {
	if len(name) <= maxName {
		return nil
	}
	return field.ErrorList{field.TooLong(field.NewPath("metadata", "name"), name, maxName)}
}
