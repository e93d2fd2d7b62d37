package tpm

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"virtmesh/agent/hostseal"
)

// softChip starts an emulated TPM whose state is in a folder, and returns it.
func softChip(t *testing.T, state string) *Chip {
	t.Helper()
	program, err := exec.LookPath("swtpm")
	if err != nil {
		t.Skip("needs swtpm (Debian package swtpm) to emulate a TPM")
	}
	// The path of a UNIX socket is short.
	dir, err := os.MkdirTemp("", "tpm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	var said bytes.Buffer
	cmd := exec.Command(program, "socket", "--tpm2", "--tpmstate", "dir="+state, "--server", "type=unixio,path="+socket,
		"--ctrl", "type=unixio,path="+filepath.Join(dir, "c"), "--flags", "not-need-init,startup-clear")
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	deadline := time.Now().Add(20 * time.Second)
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("swtpm does not answer: %v: %s", err, said.String())
		}
		time.Sleep(10 * time.Millisecond)
	}
	return newChip(func() (transport.TPMCloser, error) { return linuxudstpm.Open(socket) })
}

func TestOnlyTheChipOpensWhatItHasSealed(t *testing.T) {
	state, secret := t.TempDir(), []byte("0123456789abcdef0123456789abcdef")
	chip := softChip(t, state)
	wrapped, err := chip.Wrap(secret)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(wrapped, secret) {
		t.Error("the secret is in what the chip returned")
	}
	// Many times, since nothing may stay in the chip.
	for range 5 {
		if got, err := chip.Unwrap(wrapped); err != nil || !bytes.Equal(got, secret) {
			t.Fatalf("the chip returns %q, %v", got, err)
		}
	}
	other := softChip(t, t.TempDir())
	if got, err := other.Unwrap(wrapped); !errors.Is(err, hostseal.ErrOtherChip) {
		t.Errorf("another chip returns %q, %v", got, err)
	}
	// The machine was switched off and on.
	again := softChip(t, copyOf(t, state))
	if got, err := again.Unwrap(wrapped); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("after a restart the chip returns %q, %v", got, err)
	}
	wrapped[len(wrapped)-20] ^= 1
	if got, err := again.Unwrap(wrapped); err == nil {
		t.Errorf("of a changed key the chip returns %q", got)
	}
}

// copyOf copies the lasting state of an emulated TPM: the running one has its own locked.
func copyOf(t *testing.T, state string) string {
	t.Helper()
	to := t.TempDir()
	data, err := os.ReadFile(filepath.Join(state, "tpm2-00.permall"))
	if err == nil {
		err = os.WriteFile(filepath.Join(to, "tpm2-00.permall"), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return to
}

func TestAHostWithoutATPMSaysSo(t *testing.T) {
	_, err := New(filepath.Join(t.TempDir(), "tpmrm0")).Wrap([]byte("secret"))
	if !errors.Is(err, hostseal.ErrNoChip) {
		t.Errorf("without a device: %v", err)
	}
}

// A chip that hangs costs its callers the patience and one goroutine.
func TestAChipThatHangsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var opened atomic.Int64
		answers := make(chan struct{})
		chip := newChip(func() (transport.TPMCloser, error) {
			opened.Add(1)
			<-answers
			return nil, errors.New("gone")
		})
		for _, want := range []time.Duration{patience, 0, 0} {
			began := time.Now()
			if _, err := chip.Unwrap(nil); !errors.Is(err, ErrSilent) || time.Since(began) != want {
				t.Errorf("after %v, not %v: %v", time.Since(began), want, err)
			}
		}
		if n := opened.Load(); n != 1 {
			t.Errorf("%d calls hang", n)
		}
		close(answers)
		synctest.Wait()
		if _, err := chip.Unwrap(nil); err == nil || errors.Is(err, ErrSilent) {
			t.Errorf("when it answers again: %v", err)
		}
	})
}
