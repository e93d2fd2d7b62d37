package sparse

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/iotest"
)

// patchy is data with blocks of zeros at odd places.
func patchy(n int) []byte {
	rnd := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := 0; i < n; {
		run := min(rnd.IntN(200_000), n-i)
		if rnd.IntN(2) == 0 {
			for j := range run {
				b[i+j] = byte(1 + rnd.IntN(255))
			}
		}
		i += run
	}
	return b
}

func create(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestWrite(t *testing.T) {
	for _, n := range []int{0, 1, holeBlock, copyBlock - 1, copyBlock, copyBlock + 1, 5_000_001} {
		want, f := patchy(n), create(t)
		got, err := Write(f, iotest.HalfReader(bytes.NewReader(want)))
		if err != nil || got != int64(n) {
			t.Errorf("%d bytes: wrote %d, %v", n, got, err)
		}
		if b, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(b, want) {
			t.Errorf("%d bytes came out differently (%v)", n, err)
		}
	}
}

func TestWritePassesErrorsOn(t *testing.T) {
	boom := errors.New("boom")
	for _, end := range []error{boom, io.ErrUnexpectedEOF} {
		r := io.MultiReader(bytes.NewReader(make([]byte, 100_000)), iotest.ErrReader(end))
		if _, err := Write(create(t), r); !errors.Is(err, end) {
			t.Errorf("a reader that failed with %v gave %v", end, err)
		}
	}
}

func TestCopy(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	want := patchy(7_000_003)
	if err := os.WriteFile(from, want, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(from, 1<<30); err != nil {
		t.Fatal(err)
	}
	var last int64
	err := Copy(context.Background(), to, from, func(done, total int64) {
		if done < last || total != 1<<30 {
			t.Errorf("progress %d of %d after %d", done, total, last)
		}
		last = done
	})
	if err != nil || last != 1<<30 {
		t.Fatalf("progress ended at %d, %v", last, err)
	}
	f, err := os.Open(to)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fi, _ := f.Stat()
	if used := fi.Sys().(*syscall.Stat_t).Blocks * 512; fi.Size() != 1<<30 || used > 8<<20 {
		t.Errorf("the copy is %d long and occupies %d", fi.Size(), used)
	}
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the copy differs (%v)", err)
	}
	if err := Copy(context.Background(), to, from, nil); !errors.Is(err, os.ErrExist) {
		t.Errorf("over an existing file: %v", err)
	}
	if err := Copy(context.Background(), to+"2", dir, nil); err == nil {
		t.Error("a folder was copied")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	f2, _ := os.Open(from)
	defer f2.Close()
	if err := copyData(ctx, create(t), f2, 1<<30, func(int64, int64) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}
