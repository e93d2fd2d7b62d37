package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"virtmesh/agent/identity"
	"virtmesh/agent/membership"
	"virtmesh/agent/port/admin"
)

// connectionFlags choose the host a command talks to. They are global, so they
// stand before the command's name.
func connectionFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "kubeconfig", Usage: "connect as this kubeconfig says; the default is $KUBECONFIG, then the local agent"},
		&cli.StringFlag{Name: "context", Usage: "the kubeconfig's context to use"},
		&cli.StringFlag{Name: "host", Usage: "talk to this host (name of a node, or address) instead of the kubeconfig's"},
		&cli.StringFlag{Name: "socket", Usage: "the local agent's administration socket", Value: membership.DefaultSocket},
		timeoutFlag(),
	}
}

// namespaceFlag is shared by the commands that work in a namespace.
func namespaceFlag() cli.Flag {
	return &cli.StringFlag{Name: "namespace", Aliases: []string{"n"}, Usage: "the namespace to work in"}
}

// connection reaches the mesh's API through one host.
type connection struct {
	rest      *rest.Config
	namespace string
	patience  *patience
	// socket is the local agent's, empty where a kubeconfig says how to reach a host.
	socket string
	// bare is rest without patience, for what a command asks after its time is over.
	bare *rest.Config
}

// connect works out how to reach the API: a kubeconfig if one is given, else
// the local agent's socket, which only root may open.
func connect(c *cli.Context) (*connection, error) {
	conn, err := baseConnection(c)
	if err != nil {
		return nil, err
	}
	conn.rest.UserAgent = "virtmesh/" + Version
	conn.rest.QPS, conn.rest.Burst = 200, 400
	conn.rest.WarningHandler = rest.NewWarningWriter(c.App.ErrWriter, rest.WarningWriterOptions{Deduplicate: true})
	conn.patience = newPatience(c)
	conn.patience.overSocket = conn.socket != ""
	if ns := c.String("namespace"); ns != "" {
		conn.namespace = ns
	}
	if host := c.String("host"); host != "" {
		ctx, cancel := context.WithDeadline(c.Context, conn.patience.until)
		defer cancel()
		if err := conn.redirect(ctx, host); err != nil {
			return nil, err
		}
	}
	conn.bare = rest.CopyConfig(conn.rest)
	conn.rest.Wrap(conn.patience.wrap)
	return conn, nil
}

func baseConnection(c *cli.Context) (*connection, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	switch path := c.String("kubeconfig"); {
	case c.IsSet("socket"):
		return explicitSocket(c)
	case path != "":
		rules.ExplicitPath = path
		rules.Precedence = nil
	case os.Getenv(clientcmd.RecommendedConfigPathEnvVar) != "":
		// It may name several files, which the rules merge.
	case c.String("context") != "":
		// It is one of the default kubeconfig.
	default:
		// An agent that was killed leaves its socket behind.
		if _, err := os.Stat(c.String("socket")); err == nil {
			return dialedConnection(c.String("socket"))
		}
	}
	overrides := &clientcmd.ConfigOverrides{CurrentContext: c.String("context")}
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
	config, err := loader.ClientConfig()
	if paths := os.Getenv(clientcmd.RecommendedConfigPathEnvVar); clientcmd.IsEmptyConfig(err) && rules.ExplicitPath == "" && paths != "" {
		return nil, fmt.Errorf("there is no kubeconfig at %s, which KUBECONFIG names; unset it or use --kubeconfig", paths)
	}
	if rules.ExplicitPath != "" && errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no kubeconfig at %s, which --kubeconfig names; 'virtmesh kubeconfig' on a host prints one", rules.ExplicitPath)
	}
	if clientcmd.IsEmptyConfig(err) || errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s, and no kubeconfig is set; use --kubeconfig, or make a mesh with 'virtmesh agent init'", noLocalAgent(c.String("socket")))
	}
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	warnOfEndedCertificate(c, config)
	return &connection{rest: config, namespace: namespace}, nil
}

// explicitSocket connects to the agent that --socket names, whatever KUBECONFIG says.
func explicitSocket(c *cli.Context) (*connection, error) {
	for _, flag := range []string{"kubeconfig", "context"} {
		if c.String(flag) != "" {
			return nil, fmt.Errorf("--socket and --%s name two ways to the mesh; use one of them", flag)
		}
	}
	path := c.String("socket")
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("%s; without --socket the command uses a kubeconfig", noLocalAgent(path))
	}
	return dialedConnection(path)
}

// connectLocal connects to the local agent for what concerns this host alone. It fails
// if no agent answers there, or if the command names another host.
func connectLocal(c *cli.Context) (*connection, error) {
	for _, flag := range []string{"kubeconfig", "context", "host"} {
		if c.String(flag) != "" {
			return nil, fmt.Errorf("--%s has no effect here: the command is about this host and asks its agent (--socket)", flag)
		}
	}
	return dialedConnection(c.String("socket"))
}

// dialedConnection connects to the agent at a socket, if there is one.
func dialedConnection(path string) (*connection, error) {
	conn, err := net.Dial("unix", path)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("only root may ask this host's agent at %s; others give a kubeconfig ('virtmesh kubeconfig' prints one to root): %w", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", noLocalAgent(path), err)
	}
	conn.Close()
	return socketConnection(path), nil
}

// noLocalAgent says, and what to do, that no agent answers at the socket.
func noLocalAgent(socket string) string {
	if member, err := identity.Initialised(membership.DefaultStateDir); err == nil && member {
		return fmt.Sprintf("this host is in a mesh, but its agent does not answer at %s; 'systemctl status virtmesh' and its log say why; if the mesh has removed this host, 'virtmesh agent leave --local --yes' makes it a machine that can join", socket)
	}
	return fmt.Sprintf("no agent runs on this host (%s)", socket)
}

func socketConnection(path string) *connection {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	return &connection{namespace: "default", socket: path, rest: &rest.Config{Host: "http://localhost", Dial: dial}}
}

// redirect sends the connection to another host with the same credentials. A
// node's name is looked up through the host that is reachable now.
func (c *connection) redirect(ctx context.Context, host string) error {
	if c.rest.TLSClientConfig.CAFile == "" && len(c.rest.TLSClientConfig.CAData) == 0 {
		return fmt.Errorf("--host needs a kubeconfig ('virtmesh kubeconfig' prints one): the local socket reaches this host only")
	}
	if _, _, err := net.SplitHostPort(host); err == nil {
		c.rest.Host = "https://" + host
		return nil
	}
	if ip := net.ParseIP(host); ip != nil {
		c.rest.Host = "https://" + net.JoinHostPort(host, strconv.Itoa(membership.DefaultMeshPort))
		return nil
	}
	address, err := c.nodeAddress(ctx, host)
	if err != nil {
		return err
	}
	c.rest.Host = "https://" + address
	return nil
}

func (c *connection) nodeAddress(ctx context.Context, name string) (string, error) {
	var status admin.Status
	if err := c.mesh(ctx, http.MethodGet, statusPath, nil, &status); err != nil {
		return "", fmt.Errorf("ask %s, the kubeconfig's host, for the address of %s: %w; give --host an address instead of a name", strings.TrimPrefix(c.rest.Host, "https://"), name, err)
	}
	for _, member := range status.Members {
		if member.Name == name {
			return member.MeshAddress, nil
		}
	}
	return "", fmt.Errorf("the mesh has no host %q; 'virtmesh node ls' lists them", name)
}

func (c *connection) dynamic() (dynamic.Interface, error) { return dynamic.NewForConfig(c.rest) }

// connectDynamic connects and makes a client for objects of any kind.
func connectDynamic(c *cli.Context) (*connection, dynamic.Interface, error) {
	conn, err := connect(c)
	if err != nil {
		return nil, nil, err
	}
	client, err := conn.dynamic()
	if err != nil {
		return nil, nil, fmt.Errorf("connect to the mesh: %w", err)
	}
	return conn, client, nil
}

// clientGetter adapts a connection to the cli-runtime resource builder.
type clientGetter struct{ *connection }

var _ genericclioptions.RESTClientGetter = clientGetter{}

func (g clientGetter) ToRESTConfig() (*rest.Config, error) { return rest.CopyConfig(g.rest), nil }

func (g clientGetter) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	d, err := discovery.NewDiscoveryClientForConfig(g.rest)
	if err != nil {
		return nil, fmt.Errorf("make discovery client: %w", err)
	}
	return memory.NewMemCacheClient(d), nil
}

func (g clientGetter) ToRESTMapper() (meta.RESTMapper, error) {
	d, err := g.ToDiscoveryClient()
	if err != nil {
		return nil, err
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(d)
	return restmapper.NewShortcutExpander(mapper, d, nil), nil
}

func (g clientGetter) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	return clientcmd.NewDefaultClientConfig(*clientcmdapi.NewConfig(), &clientcmd.ConfigOverrides{})
}

// builder starts a cli-runtime resource query in the connection's namespace.
func (c *connection) builder() *resource.Builder {
	return resource.NewBuilder(clientGetter{c}).NamespaceParam(c.namespace).DefaultNamespace()
}
