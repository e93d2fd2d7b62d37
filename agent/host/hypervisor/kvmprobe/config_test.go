package kvmprobe

import (
	"os"
	"strings"
	"testing"
)

func TestConfigNamesTheField(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Fatalf("the defaults are refused: %v", err)
	}
	for field, spoil := range map[string]func(*Config){
		"Mode":         func(c *Config) { c.Mode = "" },
		"Emulator":     func(c *Config) { c.Emulator = "" },
		"Device":       func(c *Config) { c.Device = "" },
		"StageTimeout": func(c *Config) { c.StageTimeout = 0 },
	} {
		c := DefaultConfig()
		spoil(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	err := Config{}.Validate()
	for _, field := range []string{"Mode", "Emulator", "Device", "StageTimeout"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("of several faults %s is not told: %v", field, err)
		}
	}
}

// TestProbeRunsAsTheGuestsDo: what root may open, they perhaps may not; a user that is
// not there is an answer too, and no reason to run as root.
func TestProbeRunsAsTheGuestsDo(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another")
	}
	c := emulator(t, "id -u >&2; exit 1")
	c.User, c.Group = "nobody", "nogroup"
	attr, err := credentials(c)
	if err != nil || attr.Credential == nil || attr.Credential.Uid == 0 || attr.Credential.Gid == 0 {
		t.Errorf("as nobody: %+v, %v", attr, err)
	}
	for _, missing := range []struct{ user, group string }{{"no-such-user", "nogroup"}, {"nobody", "no-such-group"}} {
		c.User, c.Group = missing.user, missing.group
		got, err := Probe(t.Context(), c)
		if err != nil || got.Usable || !strings.Contains(got.Reason, "no-such-") {
			t.Errorf("as %s: %+v, %v", missing.user, got, err)
		}
	}
	c.User = ""
	if attr, err := credentials(c); err != nil || attr.Credential != nil {
		t.Errorf("as the caller: %+v, %v", attr, err)
	}
}

// TestComplaintsAreBounded: an emulator that floods fills no memory.
func TestComplaintsAreBounded(t *testing.T) {
	var l limited
	for range 100 {
		if n, err := l.Write(make([]byte, 300)); n != 300 || err != nil {
			t.Fatalf("wrote %d, %v", n, err)
		}
	}
	if got := len(l.String()); got != 1024 {
		t.Errorf("kept %d bytes", got)
	}
	for said, want := range map[string]string{"": "it said nothing", " \n": "it said nothing", " x\n": "x"} {
		if got := orNothing(said); got != want {
			t.Errorf("%q is told as %q", said, got)
		}
	}
}

// TestFirmwareEndsAtTheResetVector: the CPU begins 16 bytes before its end.
func TestFirmwareEndsAtTheResetVector(t *testing.T) {
	image := rom()
	if len(image) != romSize {
		t.Fatalf("%d bytes", len(image))
	}
	const farJump = 0xea
	if vector := image[romSize-16:]; vector[0] != farJump || vector[3] != 0x00 || vector[4] != 0xf0 {
		t.Errorf("the reset vector is % x", vector[:5])
	}
	if len(payload) > romSize-16 {
		t.Errorf("the payload of %d bytes reaches the reset vector", len(payload))
	}
	for _, s := range stages {
		printed := []byte{0xb0, s.letter, 0xe6, 0xe9} // al = letter; out 0xe9 <- al
		if !strings.Contains(string(payload), string(printed)) {
			t.Errorf("the payload never prints %c", s.letter)
		}
	}
}
