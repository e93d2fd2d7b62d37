package cli

import (
	"errors"
	"strings"
	"testing"
)

func TestHostName(t *testing.T) {
	for _, test := range []struct {
		name, given, machine string
		want, fault          string
	}{
		{"the machine's", "", "rack2-a", "rack2-a", ""},
		{"the machine's first label, lowered", "", "RACK2-A.example.org", "rack2-a", ""},
		{"given", "rack2-b", "rack2-a", "rack2-b", ""},
		{"given in upper case", "RACK2-B", "rack2-a", "rack2-b", ""},
		{"given with a dot", "rack2.b", "rack2-a", "", "rack2.b"},
		{"given with an underscore", "rack_2", "rack2-a", "", "rack_2"},
		{"given and reserved", "localhost", "rack2-a", "", "reserved"},
		{"the machine's is reserved", "", "localhost.localdomain", "", "reserved"},
		{"the machine's cannot be used", "", "rack_2", "", "rack_2"},
		{"too long", strings.Repeat("a", 64), "rack2-a", "", "64 characters"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := hostName(test.given, func() (string, error) { return test.machine, nil })
			if test.fault == "" {
				if err != nil || got != test.want {
					t.Errorf("got %q, %v; want %q", got, err, test.want)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.fault) || !strings.Contains(err.Error(), "--name") {
				t.Errorf("got %q, %v; want an error with %q that names --name", got, err, test.fault)
			}
		})
	}
	if _, err := hostName("", func() (string, error) { return "", errors.New("no name") }); err == nil || !strings.Contains(err.Error(), "--name") {
		t.Errorf("a machine without a name: %v", err)
	}
}
