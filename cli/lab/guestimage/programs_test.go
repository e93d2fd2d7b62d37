package guestimage

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// programs makes shell scripts stand for the programs that a build runs; what they are
// called with is written to the returned file, a line each.
func programs(t *testing.T, scripts map[string]string) (calls string) {
	t.Helper()
	dir := t.TempDir()
	calls = filepath.Join(dir, "calls")
	for name, script := range scripts {
		text := "#!/bin/sh\necho \"" + name + " $*\" >> " + calls + "\n" + script
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return calls
}

func lines(t *testing.T, path string) []string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

func TestRunTellsWhyAProgramFailed(t *testing.T) {
	programs(t, map[string]string{"broken": "echo on stdout; echo on stderr >&2; exit 3\n", "talker": "head -c 5000 /dev/zero | tr '\\0' x; echo the end; exit 1\n"})
	_, err := runCommand(t.Context(), command{Name: "broken", Args: []string{"a", "b"}})
	if err == nil || !strings.Contains(err.Error(), "broken a b: exit status 3") || !strings.Contains(err.Error(), "on stdout") || !strings.Contains(err.Error(), "on stderr") {
		t.Errorf("got %v", err)
	}
	if _, err := runCommand(t.Context(), command{Name: "talker"}); err == nil || len(err.Error()) > 2200 || !strings.HasSuffix(err.Error(), "the end") {
		t.Errorf("of much output the error has %d bytes", len(err.Error()))
	}
	if _, err := runCommand(t.Context(), command{Name: "no-such-program"}); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("a missing program: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := runCommand(ctx, command{Name: "sleep", Args: []string{"60"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("an interrupted program: %v", err)
	}
}

func TestRunPrefersUnpackedPrograms(t *testing.T) {
	programs(t, map[string]string{"tool": "echo of the machine\n"})
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tool"), []byte("#!/bin/sh\necho unpacked in $PWD, $WITH, $LC_ALL\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	out, err := runCommand(t.Context(), command{Name: "tool", Path: []string{t.TempDir(), dir}, Dir: work, Env: []string{"WITH=env"}})
	if err != nil || string(out) != "unpacked in "+work+", env, C\n" {
		t.Errorf("got %q, %v", out, err)
	}
	if out, err := runCommand(t.Context(), command{Name: "tool"}); err != nil || string(out) != "of the machine\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

// A fresh machine has no package lists: they are fetched once, and only then.
func TestPackageListsAreFetchedWhenMissing(t *testing.T) {
	lists := filepath.Join(t.TempDir(), "lists")
	scripts := map[string]string{
		"apt-cache": "[ -e " + lists + " ] && [ \"$3\" != nonsense ]\n",
		"apt-get":   "touch " + lists + "\n",
	}
	calls := programs(t, scripts)
	for range 2 {
		if err := aptKnows(t.Context(), "busybox"); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Count(strings.Join(lines(t, calls), "\n"), "apt-get -q update"); got != 1 {
		t.Errorf("the lists were fetched %d times", got)
	}
	if err := aptKnows(t.Context(), "nonsense"); err == nil || !strings.Contains(err.Error(), "package nonsense is in none of this machine's apt sources") {
		t.Errorf("a package that nobody has: %v", err)
	}
	scripts["apt-get"] = "echo no network; exit 100\n"
	programs(t, scripts)
	if err := os.Remove(lists); err != nil {
		t.Fatal(err)
	}
	if err := aptKnows(t.Context(), "busybox"); err == nil || !strings.Contains(err.Error(), "read package lists") || !strings.Contains(err.Error(), "no network") {
		t.Errorf("without a network: %v", err)
	}
}

func TestPackagesAreUnpacked(t *testing.T) {
	scripts := map[string]string{
		"apt-cache": "", "apt-get": "touch a.deb b.deb\n", "dpkg-deb": "echo \"$2\" > \"$3/$(basename \"$2\").content\"\n",
	}
	programs(t, scripts)
	dir := t.TempDir()
	root, err := unpackPackages(t.Context(), dir, "a", "b")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a.deb.content", "b.deb.content"} {
		if !isFile(filepath.Join(root, name)) {
			t.Errorf("%s was not unpacked", name)
		}
	}
	scripts["dpkg-deb"] = "echo 'not a package'; exit 2\n"
	programs(t, scripts)
	if _, err := unpackPackages(t.Context(), t.TempDir(), "a"); err == nil || !strings.Contains(err.Error(), "unpack a.deb") {
		t.Errorf("a damaged package: %v", err)
	}
	scripts["apt-get"] = "echo 'no such package'; exit 100\n"
	programs(t, scripts)
	if _, err := unpackPackages(t.Context(), t.TempDir(), "a"); err == nil || !strings.Contains(err.Error(), "download packages") {
		t.Errorf("a package that cannot be downloaded: %v", err)
	}
}

func TestOSRelease(t *testing.T) {
	content := []byte("PRETTY_NAME=\"Debian 12\"\nVERSION_CODENAME=bookworm\nID='debian'\n")
	for key, want := range map[string]string{"PRETTY_NAME": "Debian 12", "VERSION_CODENAME": "bookworm", "ID": "debian", "NAME": "", "VERSION": ""} {
		if got := osRelease(content, key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
}

// GRUB that does not fit before the partition would overwrite it.
func TestTooLargeBootLoaderIsRefused(t *testing.T) {
	root := t.TempDir()
	for path, size := range map[string]int{"usr/lib/grub/i386-pc/boot.img": 512, "boot/grub/core.img": debianRootStart * sector} {
		full := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	disk := filepath.Join(t.TempDir(), "disk.raw")
	if err := debianDiskImage(t.Context(), root, disk); err == nil || !strings.Contains(err.Error(), "does not fit") {
		t.Errorf("got %v", err)
	}
	if isFile(disk) {
		t.Error("a disk was written")
	}
}

// The archive is one that cpio, and so the kernel, unpacks: names and content of any
// length.
func TestInitramfsIsUnpackedByCPIO(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("cpio is not installed")
	}
	var b bytes.Buffer
	a := &initramfs{w: &b}
	a.dir("d")
	files := map[string]string{"d/a": "", "d/ab": "x", "d/abc": "xy", "d/abcd": "xyz", "d/abcde": "wxyz", "top": strings.Repeat("long", 1000) + "!"}
	for _, name := range []string{"d/a", "d/ab", "d/abc", "d/abcd", "d/abcde", "top"} {
		a.file(name, 0o640, []byte(files[name]))
	}
	a.link("link", "d/abc")
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "cpio", "-idm", "--quiet")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(b.Bytes())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(dir, name))
		info, statErr := os.Stat(filepath.Join(dir, name))
		if err != nil || statErr != nil || string(got) != want || info.Mode().Perm() != 0o640 {
			t.Errorf("%s has %d bytes (%v), want %d with mode 0640", name, len(got), err, len(want))
		}
	}
	if target, err := os.Readlink(filepath.Join(dir, "link")); err != nil || target != "d/abc" {
		t.Errorf("the link points to %q, %v", target, err)
	}
	failing := &initramfs{w: brokenWriter{}}
	failing.dir("d")
	failing.file("f", 0o600, []byte("x"))
	if err := failing.close(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a full disk: %v", err)
	}
}

// brokenWriter is a full disk.
type brokenWriter struct{}

// Write fails.
func (brokenWriter) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// kernelObject is the smallest file that has a module's list of dependencies.
func kernelObject(t *testing.T, info string) []byte {
	t.Helper()
	const names = "\x00.modinfo\x00.shstrtab\x00"
	var b bytes.Buffer
	header := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Shoff: uint64(64 + len(info) + len(names)), Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2,
	}
	sections := []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: 64, Size: uint64(len(info))},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(64 + len(info)), Size: uint64(len(names))},
	}
	for _, part := range []any{header, []byte(info + names), sections} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// A module is loaded after all that it needs, and once, whoever else needs it.
func TestModulesComeAfterWhatTheyNeed(t *testing.T) {
	dir := t.TempDir()
	for name, needs := range map[string]string{"net/virtio_net": "failover,virtio-ring", "virtio/virtio-ring": "virtio", "virtio/virtio": "", "net/failover": "", "blk/virtio_blk": "virtio_ring", "unused": "virtio"} {
		path := filepath.Join(dir, name+".ko")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, kernelObject(t, "license=GPL\x00depends="+needs+"\x00name=x\x00"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	order, err := modulesInOrder(dir, []string{"virtio-net", "built_in", "virtio_blk", "virtio_net"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range order {
		names = append(names, m.Name)
		if !isFile(m.Path) {
			t.Errorf("%s has no file %s", m.Name, m.Path)
		}
	}
	if got, want := strings.Join(names, " "), "failover virtio virtio_ring virtio_net virtio_blk"; got != want {
		t.Errorf("the order is %s, want %s", got, want)
	}
	if err := os.WriteFile(filepath.Join(dir, "bad.ko"), []byte("no module"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := modulesInOrder(dir, []string{"bad"}); err == nil || !strings.Contains(err.Error(), "module bad") {
		t.Errorf("a damaged module: %v", err)
	}
	if _, err := modulesInOrder(filepath.Join(dir, "none"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a kernel without modules: %v", err)
	}
}

// Who waits for another's build waits no longer than it was told.
func TestLockIsWaitedFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lockFile(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := lockFile(short, path); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "wait for another build") {
		t.Errorf("got %v", err)
	}
	got := make(chan error, 1)
	go func() {
		unlock, err := lockFile(t.Context(), path)
		if err == nil {
			unlock()
		}
		got <- err
	}()
	unlock()
	if err := <-got; err != nil {
		t.Errorf("after it was free: %v", err)
	}
}

func TestOnlyFilesAreContainerDisks(t *testing.T) {
	for path, want := range map[string]error{t.TempDir(): nil, filepath.Join(t.TempDir(), "none"): os.ErrNotExist} {
		if _, err := ContainerDisk(path); err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := Build(t.Context(), "windows", Options{Dir: t.TempDir()}); !errors.Is(err, ErrUnknownImage) || !strings.Contains(err.Error(), "debian, tiny") {
		t.Errorf("an image that nobody can build: %v", err)
	}
	file := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Push(t.Context(), file, "not a reference", true); err == nil || !strings.Contains(err.Error(), "push "+file) {
		t.Errorf("a reference that is none: %v", err)
	}
}
