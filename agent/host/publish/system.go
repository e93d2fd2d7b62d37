package publish

import (
	"bufio"
	"bytes"
	"os"
	"runtime"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// SystemInfo reads the operating system's description of itself below root, which is
// "/" on a real host. A field that cannot be read stays empty. version is the version
// of the agent.
func SystemInfo(root, version string) corev1.NodeSystemInfo {
	read := func(path string) string {
		b, err := os.ReadFile(root + path)
		if err != nil {
			return ""
		}
		return string(bytes.TrimSpace(b))
	}
	return corev1.NodeSystemInfo{
		MachineID:       read("etc/machine-id"),
		SystemUUID:      read("sys/class/dmi/id/product_uuid"),
		BootID:          read("proc/sys/kernel/random/boot_id"),
		KernelVersion:   read("proc/sys/kernel/osrelease"),
		OSImage:         prettyName(read("etc/os-release")),
		OperatingSystem: runtime.GOOS,
		Architecture:    runtime.GOARCH,
		KubeletVersion:  version,
	}
}

// prettyName finds PRETTY_NAME in the text of os-release.
func prettyName(osRelease string) string {
	lines := bufio.NewScanner(strings.NewReader(osRelease))
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), "PRETTY_NAME="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return ""
}
