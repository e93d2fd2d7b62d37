package daemonconf_test

import (
	"reflect"
	"testing"

	"virtmesh/agent/host/daemonconf"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]map[string]string{
		"": {}, "no setting\n": {},
		"# user = \"nobody\"\nuser = \"root\"   # for a test\nseccomp_sandbox=0\nuser = 'other'": {"user": "other", "seccomp_sandbox": "0"},
		"security_driver = [ \"apparmor\" ]\n":                                                   {"security_driver": `[ "apparmor" ]`},
	} {
		if got := daemonconf.Parse(text); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
