package qemuimg

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"virtmesh/storage"
	"virtmesh/storage/program"
)

func tool(t testing.TB) Tool {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		if os.Geteuid() != 0 {
			t.Skip("needs qemu-img, which make packages installs")
		}
		t.Fatalf("needs qemu-img, which make packages installs: %v", err)
	}
	return DefaultTool()
}

// qemuImg makes images that the package itself never would.
func qemuImg(t testing.TB, args ...string) {
	t.Helper()
	tool(t)
	if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img %v: %v: %s", args, err, out)
	}
}

func TestCreateResizeConvert(t *testing.T) {
	tl, ctx, dir := tool(t), context.Background(), t.TempDir()
	raw, qcow, overlay := filepath.Join(dir, "a.raw"), filepath.Join(dir, "b.qcow2"), filepath.Join(dir, "c.qcow2")
	if err := Create(raw, Raw, 4<<20); err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("data"), 1000)
	f, err := os.OpenFile(raw, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(want, 1<<20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := tl.Convert(ctx, raw, Raw, qcow, QCOW2); err != nil {
		t.Fatal(err)
	}
	if err := CreateOverlay(overlay, qcow, QCOW2, 0); err != nil {
		t.Fatal(err)
	}
	if err := tl.Resize(ctx, overlay, QCOW2, 16<<20); err != nil {
		t.Fatal(err)
	}
	if err := tl.Resize(ctx, overlay, QCOW2, 8<<20); err == nil {
		t.Error("a disk shrank")
	}
	back := filepath.Join(dir, "d.raw")
	if err := tl.Convert(ctx, overlay, QCOW2, back, Raw); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(back)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 16<<20 || !bytes.Equal(got[1<<20:1<<20+len(want)], want) {
		t.Errorf("the disk changed on its way: %d bytes", len(got))
	}
	for name, err := range map[string]error{
		"create raw":   Create(raw, Raw, 1<<20),
		"create qcow2": Create(qcow, QCOW2, 1<<20),
		"overlay":      CreateOverlay(qcow, raw, Raw, 0),
		"convert":      tl.Convert(ctx, raw, Raw, qcow, QCOW2),
	} {
		if !errors.Is(err, os.ErrExist) {
			t.Errorf("%s over an existing file: %v", name, err)
		}
	}
	if got, err := Inspect(qcow, Limits{}); err != nil || got.VirtualSize != 4<<20 {
		t.Errorf("an image was overwritten: %+v %v", got, err)
	}
}

// An unprivileged program gets along with open files in folders it cannot enter. What
// nobody else can read is lent to it; an image that its group can read is not, because
// guests use that too. In the end all is as it was.
func TestRunsAsAnotherUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	const group = 23456
	tl, ctx, dir := tool(t), context.Background(), t.TempDir()
	tl.Users = program.NewUsers(1_900_000_000, 8, group)
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	raw, qcow, back, shared := filepath.Join(dir, "a.raw"), filepath.Join(dir, "b.qcow2"), filepath.Join(dir, "c.raw"), filepath.Join(dir, "shared.raw")
	want := bytes.Repeat([]byte("data"), 1<<18)
	if err := errors.Join(os.WriteFile(raw, want, 0o600), os.WriteFile(shared, want, 0o440), os.Chown(shared, 0, group)); err != nil {
		t.Fatal(err)
	}
	for source, lent := range map[string]bool{raw: true, shared: false} {
		user, owners := seenByProgram(t, tl, source)
		if (owners[0] == user) != lent || owners[1] != user {
			t.Errorf("%s: user %s sees files of %q; lent: %v", filepath.Base(source), user, owners, lent)
		}
	}
	for _, err := range []error{
		tl.Convert(ctx, shared, Raw, qcow, QCOW2), os.Remove(qcow), tl.Convert(ctx, raw, Raw, qcow, QCOW2),
		tl.Resize(ctx, qcow, QCOW2, 2<<20), tl.Convert(ctx, qcow, QCOW2, back, Raw),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(back); err != nil || len(got) != 2<<20 || !bytes.Equal(got[:1<<20], want) {
		t.Errorf("the disk changed on its way: %d bytes, %v", len(got), err)
	}
	for _, path := range []string{raw, qcow, back, shared} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st := info.Sys().(*syscall.Stat_t); st.Uid != 0 {
			t.Errorf("%s belongs to %d in the end", filepath.Base(path), st.Uid)
		}
	}
	if err := tl.Convert(ctx, raw, Raw, qcow, QCOW2); !errors.Is(err, os.ErrExist) {
		t.Errorf("over an existing file: %v", err)
	}
}

// seenByProgram converts source with a program that says whom it runs as and who owns the
// files that it was given.
func seenByProgram(t *testing.T, tl Tool, source string) (user string, owners []string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "program") // others cannot pass t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	tl.Path = filepath.Join(dir, "sees")
	script := "#!/bin/sh\necho SEEN $(id -u) $(stat -Lc %u /proc/$$/fd/3 /proc/$$/fd/4)\nexit 1\n"
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(tl.Path, []byte(script), 0o755)); err != nil {
		t.Fatal(err)
	}
	_, said, _ := strings.Cut(fmt.Sprint(tl.Convert(t.Context(), source, Raw, source+".out", QCOW2)), "SEEN ")
	fields := strings.Fields(said)
	if len(fields) != 3 {
		t.Fatalf("the program said %q", said)
	}
	return fields[0], fields[1:]
}

// A program that writes more than the disk can need is stopped.
func TestProgramCannotFillTheDisk(t *testing.T) {
	dir := t.TempDir()
	fills := filepath.Join(dir, "fills")
	if err := os.WriteFile(fills, []byte("#!/bin/sh\nexec head -c 1G /dev/zero >/proc/self/fd/4\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	raw, to := filepath.Join(dir, "raw"), filepath.Join(dir, "to")
	if err := Create(raw, Raw, 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := (Tool{Path: fills}).Convert(t.Context(), raw, Raw, to, QCOW2); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Lstat(to); !os.IsNotExist(err) {
		t.Errorf("left: %v", err)
	}
}

func TestBadArguments(t *testing.T) {
	tl, ctx, dir := tool(t), context.Background(), t.TempDir()
	p := filepath.Join(dir, "x")
	for name, err := range map[string]error{
		"relative path":    Create("x", QCOW2, 1<<20),
		"protocol":         Create("nbd:localhost:10809", QCOW2, 1<<20),
		"no size":          Create(p, Raw, 0),
		"format":           Create(p, "vmdk", 1<<20),
		"backing protocol": CreateOverlay(p, "json:{}", Raw, 0),
		"backing missing":  CreateOverlay(p, filepath.Join(dir, "none"), Raw, 0),
		"guessed format":   CreateOverlay(p, "/dev/null", "", 0),
		"convert relative": tl.Convert(ctx, "a", Raw, p, Raw),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, err := os.Lstat(p); err == nil {
			t.Fatalf("%s: a file is left behind", name)
		}
	}
}

func TestToolStops(t *testing.T) {
	dir := t.TempDir()
	slow := filepath.Join(dir, "slow")
	if err := os.WriteFile(slow, []byte("#!/bin/sh\nexec tail -f /dev/null\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	tl := Tool{Path: slow, Timeout: 50 * time.Millisecond}
	path := filepath.Join(dir, "x")
	if err := Create(path, QCOW2, 1<<20); err != nil {
		t.Fatal(err)
	}
	err := tl.Resize(context.Background(), path, QCOW2, 1<<20)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// TestNewImagesAreQEMUs has QEMU check and describe what Create writes.
func TestNewImagesAreQEMUs(t *testing.T) {
	tool(t)
	dir := t.TempDir()
	base := filepath.Join(dir, "base.raw")
	if err := Create(base, Raw, 3<<30); err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int64{
		"sector": 512, "mib": 1 << 20, "l1": 512 << 20, "l1more": 512<<20 + 1, "tib": 1 << 40, "manyl1": 4<<40 + 1, "pib": 1 << 50,
	} {
		p := filepath.Join(dir, name)
		if err := Create(p, QCOW2, size); err != nil {
			t.Fatal(err)
		}
		checked(t, p, storage.AlignSize(size), "", "")
	}
	middle, top := filepath.Join(dir, "middle"), filepath.Join(dir, "top")
	if err := CreateOverlay(middle, base, Raw, 0); err != nil {
		t.Fatal(err)
	}
	checked(t, middle, 3<<30, base, Raw)
	if err := CreateOverlay(top, "middle", QCOW2, 5<<30); err != nil {
		t.Fatal(err)
	}
	checked(t, top, 5<<30, "middle", QCOW2)
	if err := CreateOverlay(filepath.Join(dir, "less"), base, Raw, 1<<30); err == nil {
		t.Error("an overlay smaller than its base was made")
	}
	if err := Create(filepath.Join(dir, "huge"), QCOW2, 1<<60); !errors.Is(err, ErrTooLarge) {
		t.Errorf("an image of 2^60 bytes: %v", err)
	}
}

func checked(t *testing.T, path string, size int64, backing string, bf Format) {
	t.Helper()
	qemuImg(t, "check", "-q", "-f", "qcow2", path)
	out, err := exec.Command("qemu-img", "info", "--output=json", "-f", "qcow2", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		Size    int64  `json:"virtual-size"`
		Backing string `json:"backing-filename"`
		Format  Format `json:"backing-filename-format"`
		Dirty   bool   `json:"dirty-flag"`
	}
	if err := json.Unmarshal(out, &info); err != nil {
		t.Fatal(err)
	}
	if info.Size != size || info.Backing != backing || info.Format != bf || info.Dirty {
		t.Errorf("%s: QEMU says %+v", filepath.Base(path), info)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Probe(f, fi.Size()); err != nil || got.VirtualSize != size || got.BackingFile != backing || got.BackingFormat != bf {
		t.Errorf("%s: Probe says %+v, %v", filepath.Base(path), got, err)
	}
}

func FuzzProbe(f *testing.F) {
	dir := f.TempDir()
	for i, args := range [][]string{{"-f", "qcow2"}, {"-f", "qcow2", "-o", "compat=0.10"}, {"-f", "qcow2", "-u", "-b", "x", "-F", "raw"}} {
		p := filepath.Join(dir, string(rune('a'+i)))
		qemuImg(f, append(append([]string{"create", "-q"}, args...), p, "1M")...)
		raw, err := os.ReadFile(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw[:1024])
	}
	f.Add([]byte("QFI\xfb"))
	f.Add(binary.BigEndian.AppendUint64(nil, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := Probe(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			if info != (Info{}) {
				t.Errorf("an error and %+v", info)
			}
			return
		}
		if info.VirtualSize < 0 || (info.Format != Raw && info.Format != QCOW2) {
			t.Errorf("got %+v", info)
		}
		info.Check(Limits{MaxVirtualSize: 1 << 40})
	})
}

// TestQEMUWritesToOddSizes opens a disk of every size that users write as a virtual
// machine does: past the page cache and for writing. It refuses a size that it cannot
// write to the end of.
func TestQEMUWritesToOddSizes(t *testing.T) {
	tool(t)
	if _, err := exec.LookPath("qemu-io"); err != nil {
		if os.Geteuid() != 0 {
			t.Skip("needs qemu-io, which make packages installs")
		}
		t.Fatalf("needs qemu-io, which make packages installs: %v", err)
	}
	dir := t.TempDir()
	for _, size := range []int64{1, 5_000, 4096 + 512, 100_000_000, 1_000_000_000, 3_000_000_000} {
		for _, f := range []Format{Raw, QCOW2} {
			p := filepath.Join(dir, fmt.Sprintf("%d.%s", size, f))
			if err := Create(p, f, size); err != nil {
				t.Fatal(err)
			}
			last := storage.AlignSize(size) - 512
			blk := fmt.Sprintf("driver=%s,file.driver=blkdebug,file.align=4096,file.image.driver=file,file.image.filename=%s", f, p)
			out, err := exec.Command("qemu-io", "--image-opts", "-c", fmt.Sprintf("write -P 7 %d 512", last), blk).CombinedOutput()
			if err != nil || bytes.Contains(out, []byte("rror")) {
				t.Errorf("%d bytes, %s: %v: %s", size, f, err, out)
			}
		}
	}
}
