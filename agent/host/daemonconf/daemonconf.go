// Package daemonconf reads the configuration of the daemons that guests depend on, such as
// libvirt's qemu.conf: lines KEY = VALUE. It knows no setting by name.
package daemonconf

import "strings"

// Parse returns the settings in the text of a file, without quotes and comments. Of a
// setting that is there twice, the last one counts.
func Parse(text string) map[string]string {
	settings := map[string]string{}
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.HasPrefix(key, "#") {
			continue
		}
		value = strings.TrimSpace(value)
		if i := strings.Index(value, " #"); i >= 0 {
			value = strings.TrimSpace(value[:i])
		}
		settings[strings.TrimSpace(key)] = strings.Trim(value, `"'`)
	}
	return settings
}
