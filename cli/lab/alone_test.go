package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Settings of a test that the programs it starts, also inside hosts, inherit.
const (
	aloneEnv = "VIRTMESH_TEST_ALONE"
	apiEnv   = "VIRTMESH_TEST_API"
	tokenEnv = "VIRTMESH_TEST_TOKEN"
)

// testToken is the only token that lets a test's host join.
const testToken = "vm1.test"

// TestMain plays virtmesh when a lab starts it: the lab's own parts are real, the agent
// is one that only listens.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		if err := play(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "virtmesh:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func play(args []string) error {
	line := strings.Join(args, " ")
	switch {
	case line == "lab host-init":
		return RunInit(os.Stdin)
	case line == "lab host-services":
		return playServices()
	case strings.HasSuffix(line, " registry"):
		l, err := Open(args[2])
		if err != nil {
			return err
		}
		return l.ServeRegistry(context.Background())
	case strings.HasPrefix(line, "agent run"):
		return playAgent()
	case strings.HasPrefix(line, "agent init"):
		return playEnrolment(line)
	case strings.HasPrefix(line, "agent join"):
		if token, err := io.ReadAll(os.Stdin); err != nil || strings.TrimSpace(string(token)) != testToken {
			return errors.New("the token is unknown")
		}
		return playEnrolment(line)
	case strings.HasPrefix(line, "status"):
		_, err := os.Stat(filepath.Join("/run/virtmesh", "agent.pid"))
		return err
	case strings.HasPrefix(line, "token create"):
		fmt.Println(os.Getenv(tokenEnv))
		return nil
	case strings.HasPrefix(line, "kubeconfig"):
		return playKubeconfig(args[2])
	case args[0] == "get":
		return fetchURL(args[1], os.Stdout)
	}
	return fmt.Errorf("a lab does not start %q", line)
}

// playServices is RunServices without libvirt.
func playServices() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	data, err := os.ReadFile(hostRecord)
	if err != nil {
		return err
	}
	var c hostConfig
	if err := json.Unmarshal(data, &c); err != nil {
		return err
	}
	go func() { _ = serveRegistryProxy(ctx, c) }()
	return superviseAgent(ctx, c, slog.New(slog.DiscardHandler))
}

func playEnrolment(line string) error {
	return os.WriteFile(agentEnabled, []byte(line), 0o600)
}

// playAgent answers on the mesh port with the host's name.
func playAgent() error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	if err := os.WriteFile("/run/virtmesh/agent.pid", fmt.Append(nil, os.Getpid()), 0o600); err != nil {
		return err
	}
	return http.ListenAndServe(fmt.Sprintf(":%d", MeshPort), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "agent of ", name)
	}))
}

func playKubeconfig(name string) error {
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: os.Getenv(apiEnv)}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	data, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(data)
	return err
}

// fetchURL prints what a web server says; one that does not answer soon is not reachable.
func fetchURL(url string, to io.Writer) error {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(to, response.Body)
	return err
}

// alone runs a test by itself, with networks, mounts and processes of its own: it may
// make bridges and kill hosts, and nothing of it is left when it ends. It returns true
// in the process that is to do the work.
func alone(t *testing.T) bool {
	t.Helper()
	if os.Getenv(aloneEnv) != "" {
		if err := ip(t.Context(), "link", "set", "lo", "up"); err != nil {
			t.Fatal(err)
		}
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("a lab needs root")
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
		program, "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), aloneEnv+"=1", tokenEnv+"="+testToken)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()+" ") {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}
