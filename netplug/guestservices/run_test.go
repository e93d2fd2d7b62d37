package guestservices

import (
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestProcessThatCannotBeReachedFails breaks the control socket: the process ends with an
// error, which is what has a service manager start it anew.
func TestProcessThatCannotBeReachedFails(t *testing.T) {
	dir := t.TempDir()
	lock, err := openLock(dir)
	if err != nil {
		t.Fatal(err)
	}
	control, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0) // it does not listen
	if err != nil {
		t.Fatal(err)
	}
	in, err := json.Marshal(inheritance{Version: inheritanceVersion, Lock: lock, Control: control})
	if err != nil {
		t.Fatal(err)
	}
	err = Run(t.Context(), Config{Dir: dir, Build: "test", Inherited: string(in), Logger: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "cannot reach") {
		t.Errorf("the process ends with the error %v", err)
	}
}
