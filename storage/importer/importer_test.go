package importer

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/zstd"

	"virtmesh/storage/qemuimg"
)

var limits = Options{MaxBytes: 8 << 20, MaxVirtualSize: 16 << 20}

// disk is a raw disk with something here and there.
func disk(n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 70_000 {
		b[i] = byte(i)
	}
	copy(b, "boot sector")
	return b
}

func packed(t *testing.T, kind string, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	switch kind {
	case "gzip":
		w := gzip.NewWriter(&out)
		w.Write(b)
		w.Close()
	case "zstd":
		w, err := zstd.NewWriter(&out)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(b)
		w.Close()
	case "xz":
		if _, err := exec.LookPath("xz"); err != nil {
			if os.Geteuid() != 0 {
				t.Skip("needs xz, which make packages installs")
			}
			t.Fatalf("needs xz, which make packages installs: %v", err)
		}
		cmd := exec.Command("xz", "-c", "-1")
		cmd.Stdin, cmd.Stdout = bytes.NewReader(b), &out
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
	default:
		return b
	}
	return out.Bytes()
}

func target(t *testing.T) string { return filepath.Join(t.TempDir(), "image") }

func TestStreamUnpacks(t *testing.T) {
	want := disk(3_000_000)
	for _, kind := range []string{"plain", "gzip", "zstd", "xz"} {
		t.Run(kind, func(t *testing.T) {
			sent, p := packed(t, kind, want), target(t)
			sum := sha256.Sum256(sent)
			sum512 := sha512.Sum512(sent)
			for i, check := range []string{"", "sha256:" + hex.EncodeToString(sum[:]), "SHA512:" + strings.ToUpper(hex.EncodeToString(sum512[:]))} {
				o, last := limits, int64(0)
				o.Checksum, o.Progress = check, func(done, total int64) { last = done }
				res, err := Stream(context.Background(), iotest.HalfReader(bytes.NewReader(sent)), int64(len(sent)), p+fmt.Sprint(i), o)
				if err != nil {
					t.Fatal(err)
				}
				got, err := os.ReadFile(res.Path)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes that differ, %v", len(got), err)
				}
				if res.Format != qemuimg.Raw || res.VirtualSize != 3_000_000 || res.SHA256 != hex.EncodeToString(sum[:]) {
					t.Errorf("result %+v", res)
				}
				if last != int64(len(sent)) {
					t.Errorf("progress ended at %d of %d", last, len(sent))
				}
			}
		})
	}
}

func TestStreamRefuses(t *testing.T) {
	boom := errors.New("boom")
	backing := target(t)
	base := target(t)
	if err := qemuimg.Create(base, qemuimg.Raw, 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := qemuimg.CreateOverlay(backing, base, qemuimg.Raw, 0); err != nil {
		t.Fatal(err)
	}
	huge := target(t)
	if err := qemuimg.Create(huge, qemuimg.QCOW2, 1<<40); err != nil {
		t.Fatal(err)
	}
	file := func(p string) []byte {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good := disk(1 << 20)
	with := func(checksum string) Options {
		o := limits
		o.Checksum = checksum
		return o
	}
	for name, c := range map[string]struct {
		r    io.Reader
		size int64
		o    Options
		want error
	}{
		"nothing":         {bytes.NewReader(nil), 0, limits, ErrNotAnImage},
		"backing file":    {bytes.NewReader(file(backing)), -1, limits, ErrNotAnImage},
		"huge disk":       {bytes.NewReader(file(huge)), -1, limits, ErrTooLarge},
		"huge file":       {bytes.NewReader(disk(9 << 20)), -1, limits, ErrTooLarge},
		"gzip bomb":       {bytes.NewReader(packed(t, "gzip", make([]byte, 20<<20))), -1, limits, ErrTooLarge},
		"zstd bomb":       {bytes.NewReader(packed(t, "zstd", make([]byte, 20<<20))), -1, limits, ErrTooLarge},
		"xz bomb":         {bytes.NewReader(packed(t, "xz", make([]byte, 20<<20))), -1, limits, ErrTooLarge},
		"broken gzip":     {bytes.NewReader(packed(t, "gzip", good)[:500]), -1, limits, ErrNotAnImage},
		"broken zstd":     {bytes.NewReader(packed(t, "zstd", good)[:50]), -1, limits, ErrNotAnImage},
		"broken xz":       {bytes.NewReader(packed(t, "xz", good)[:200]), -1, limits, ErrNotAnImage},
		"wrong checksum":  {bytes.NewReader(good), -1, with("sha256:" + strings.Repeat("0", 64)), ErrChecksum},
		"bad checksum":    {bytes.NewReader(good), -1, with("md5:" + strings.Repeat("0", 32)), ErrInvalid},
		"short":           {bytes.NewReader(good), 2 << 20, limits, ErrSource},
		"failing":         {io.MultiReader(bytes.NewReader(good), iotest.ErrReader(boom)), -1, limits, ErrSource},
		"failing xz":      {io.MultiReader(bytes.NewReader(packed(t, "xz", good)[:200]), iotest.ErrReader(boom)), -1, limits, ErrSource},
		"cut while gzip":  {io.MultiReader(bytes.NewReader(packed(t, "gzip", good)[:500]), iotest.ErrReader(io.ErrUnexpectedEOF)), -1, limits, ErrSource},
		"no limits":       {bytes.NewReader(good), -1, Options{}, ErrInvalid},
		"archive":         {bytes.NewReader(append(make([]byte, 257), "ustar and more"...)), -1, limits, ErrNotAnImage},
		"a page of error": {strings.NewReader("<!DOCTYPE html>"), -1, limits, ErrNotAnImage},
	} {
		t.Run(name, func(t *testing.T) {
			p := target(t)
			_, err := Stream(context.Background(), c.r, c.size, p, c.o)
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if _, err := os.Stat(p); !os.IsNotExist(err) {
				t.Error("a file is left behind")
			}
		})
	}
	p := target(t)
	if err := os.WriteFile(p, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Stream(context.Background(), bytes.NewReader(good), -1, p, limits); !errors.Is(err, os.ErrExist) {
		t.Errorf("over an existing file: %v", err)
	}
	if b, _ := os.ReadFile(p); string(b) != "precious" {
		t.Error("an existing file was changed")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Stream(ctx, bytes.NewReader(good), -1, target(t), limits); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

func TestHTTP(t *testing.T) {
	want := disk(2 << 20)
	release := make(chan struct{})
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/disk":
			w.Write(want)
		case "/private":
			if u, p, _ := r.BasicAuth(); u != "me" || p != "secret" || r.Header.Get("X-Extra") != "1" {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			w.Write(want)
		case "/hang":
			w.Write(want[:1000])
			w.(http.Flusher).Flush()
			select {
			case <-release:
			case <-r.Context().Done():
			}
		case "/cut":
			w.Header().Set("Content-Length", "100000")
			w.Write(want[:1000])
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer srv.Close()
	defer close(release)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	for name, c := range map[string]struct {
		r    Request
		want error
	}{
		"good":        {Request{URL: srv.URL + "/disk", CA: ca}, nil},
		"unknown CA":  {Request{URL: srv.URL + "/disk"}, ErrSource},
		"bad CA":      {Request{URL: srv.URL + "/disk", CA: []byte("x")}, ErrInvalid},
		"password":    {Request{URL: srv.URL + "/private", CA: ca, Username: "me", Password: "secret", Header: http.Header{"x-extra": {"1"}}}, nil},
		"no password": {Request{URL: srv.URL + "/private", CA: ca}, ErrSource},
		"missing":     {Request{URL: srv.URL + "/none?token=hunter2", CA: ca}, ErrSource},
		"hangs":       {Request{URL: srv.URL + "/hang?token=hunter2", CA: ca, StallTimeout: 200 * time.Millisecond}, ErrStalled},
		"cut":         {Request{URL: srv.URL + "/cut", CA: ca}, ErrSource},
		"no server":   {Request{URL: "http://127.0.0.1:1/disk?token=hunter2"}, ErrSource},
		"file URL":    {Request{URL: "file:///etc/shadow"}, ErrInvalid},
		"no URL":      {Request{}, ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			p := target(t)
			c.r.Check = anywhere
			res, err := HTTP(context.Background(), c.r, p, limits)
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if err != nil {
				if strings.Contains(err.Error(), "hunter2") {
					t.Errorf("the error shows a secret: %v", err)
				}
				if _, err := os.Stat(p); !os.IsNotExist(err) {
					t.Error("a file is left behind")
				}
				return
			}
			if got, err := os.ReadFile(res.Path); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes that differ, %v", len(got), err)
			}
		})
	}
}
