package cli

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// writeFile makes a file in a new directory.
func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// labThatIsOff writes down a lab of two hosts, of which the first is in the mesh.
func labThatIsOff(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if err := os.MkdirAll(filepath.Join(dir, "hosts", "host1"), 0o700); err != nil {
		t.Fatal(err)
	}
	state := `{"id":"abcdef","network":7,"registryPort":1,"hosts":[
		{"name":"host1","index":1,"address":"10.201.7.11"},{"name":"host2","index":2,"address":"10.201.7.12"}]}`
	for path, text := range map[string]string{"lab.json": state, "hosts/host1/kubeconfig": "x"} {
		if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLabListsHosts(t *testing.T) {
	dir := labThatIsOff(t, "lab")
	code, stdout, stderr := run(t, "lab", "--dir", dir, "ls")
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d, %q", code, stderr)
	}
	for host, want := range map[string]string{
		"host1": "host1 off 10.201.7.11 " + dir + "/hosts/host1/log",
		"host2": "host2 off 10.201.7.12 " + dir + "/hosts/host2/log",
	} {
		if got := strings.Join(strings.Fields(lineWith(stdout, host)), " "); got != want {
			t.Errorf("%s is listed as %q, want %q", host, got, want)
		}
	}
	var hosts []struct {
		Name, Address string
		Running       bool
	}
	if _, stdout, _ := run(t, "lab", "ls", "-o", "json", "--dir", dir); json.Unmarshal([]byte(stdout), &hosts) != nil || len(hosts) != 2 || hosts[1].Name != "host2" || hosts[1].Running {
		t.Errorf("got %+v", hosts)
	}
	if got := offered(t, []string{"lab", "--dir", dir}, "cut"); strings.Join(got, " ") != "host1 host2" {
		t.Errorf("offered %q", got)
	}
	if got := offered(t, []string{"lab", "--dir", dir}, "cut host1"); len(got) != 0 {
		t.Errorf("after the host offered %q", got)
	}
}

// The line is for 'eval', which must set the variable to the file's name.
func TestLabEnvIsReadByAShell(t *testing.T) {
	for _, name := range []string{"lab", "my lab", `it's "mine"; $(exit 1)`} {
		dir := labThatIsOff(t, name)
		code, stdout, stderr := run(t, "lab", "--dir", dir, "env")
		if code != 0 || !strings.HasPrefix(stdout, "export KUBECONFIG=") {
			t.Fatalf("exit code %d, %q, %q", code, stdout, stderr)
		}
		out, err := exec.CommandContext(t.Context(), "sh", "-c", stdout+`printf %s "$KUBECONFIG"`).Output()
		if want := filepath.Join(dir, "hosts", "host1", "kubeconfig"); err != nil || string(out) != want {
			t.Errorf("the shell has %q, %v; want %q", out, err, want)
		}
	}
}

func TestLabNamesWhatIsWrong(t *testing.T) {
	dir := labThatIsOff(t, "lab")
	damaged := filepath.Dir(writeFile(t, "lab.json", "{"))
	for _, test := range []struct {
		typed, want string
	}{
		{"env host2", "host2 is not in the mesh yet"},
		{"env host9", `the lab has no host "host9"; 'virtmesh lab ls' lists them`},
		{"kill host9", `no host "host9"`},
		{"exec host1 -- true", "host1 is off; 'virtmesh lab start host1' powers it on"},
		{"exec host1 true", "host1 is off"},
		{"exec host1 --", "usage: virtmesh lab exec HOST -- COMMAND"},
		{"image /no/such/disk.img", "the lab itself can build debian, tiny"},
		{"image " + writeFile(t, "My_Disk.img", strings.Repeat("x", 512)), "push 127.0.0.1:1/my-disk:latest"},
		{"image " + writeFile(t, "notes.txt", "x"), "notes.txt is no disk image"},
		{"up --hosts many", "many"},
		{"up --hosts 201", "1 to 200 hosts, not 201"},
		{"up --metal", "hosts are of the other sort"},
		{"up --package x.deb", "say --metal too"},
		{"up --metal --package /no/such.deb", "the package to install"},
		{"host-init", "not by hand"},
	} {
		if os.Geteuid() != 0 && strings.HasPrefix(test.typed, "up ") {
			continue // who is not root is told that first
		}
		code, stdout, stderr := run(t, append([]string{"lab", "--dir", dir}, strings.Fields(test.typed)...)...)
		if code != 1 || stdout != "" || !strings.Contains(stderr, "virtmesh: ") || !strings.Contains(stderr, test.want) {
			t.Errorf("%s: exit code %d, %q, %q; want 1 and %q", test.typed, code, stdout, stderr, test.want)
		}
		if code, _, stderr := run(t, append([]string{"lab", "--dir", damaged}, strings.Fields(test.typed)...)...); code != 1 || !strings.HasPrefix(stderr, "virtmesh: ") {
			t.Errorf("%s in a damaged lab: exit code %d, %q", test.typed, code, stderr)
		}
	}
	if code, stdout, stderr := run(t, "lab", "--dir", t.TempDir(), "down"); code != 0 || stdout != "the lab is gone\n" {
		t.Errorf("down without a lab: exit code %d, %q, %q", code, stdout, stderr)
	}
}
