package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/api"
	"virtmesh/agent/api/access"
	"virtmesh/agent/api/audit"
	"virtmesh/agent/api/tokens"
	"virtmesh/agent/claims"
	"virtmesh/agent/host"
	"virtmesh/agent/host/network"
	"virtmesh/agent/level"
	"virtmesh/agent/membership"
	"virtmesh/agent/objects"
	"virtmesh/agent/port"
	"virtmesh/agent/port/admin"
	"virtmesh/agent/port/guests"
	"virtmesh/agent/stewards"
	"virtmesh/agent/stewards/roster"
	"virtmesh/gossip"
)

// joinMesh makes this host take part in its mesh.
func (a *Agent) joinMesh(ctx context.Context) (err error) {
	a.member, err = membership.Start(ctx, a.config.MembershipConfig, membership.Options{
		Version: a.options.Version, ConfigPath: a.options.ConfigPath, Logger: a.log, Metrics: a.metrics, Meter: a.meter, NotifyAlive: notifyAlive,
		InterfaceAddresses: network.HostAddresses,
	})
	if err != nil {
		return err
	}
	a.onStop(a.member.Close)
	return nil
}

// view is this host's view of the desired state of the mesh.
type view struct {
	// replica is the replicated store as the API uses it. store is the same
	// store, but refuses writes of the loops outside the outputs that they
	// declare. Both count what is written.
	replica *objects.Replica
	// secrets is the same store for the parts of the agent that read what is encrypted.
	secrets     objects.Store
	store       objects.Store
	cache       *objects.Cache
	claims      *claims.Cache
	recorder    *objects.Recorder
	stewardship *stewards.Stewardship
}

// openView prepares the view; the loops fill it.
func (a *Agent) openView(context.Context) (err error) {
	vault := a.member.Vault()
	a.view.replica = objects.FromRaft(a.meter.Raft(a.member.Store(), "api"), vault)
	a.view.store = stewards.Guard(objects.SealedFromRaft(a.meter.Raft(a.member.Store(), "agent"), vault))
	a.view.secrets = objects.FromRaft(a.member.Store(), vault)
	cfg := objects.DefaultCacheConfig()
	cfg.Store, cfg.Logger = a.view.store, a.log.With("part", "objects")
	if a.view.cache, err = objects.NewCache(cfg); err != nil {
		return part("prepare the view of the objects", err)
	}
	a.view.claims = claims.NewCache(a.view.cache, a.log.With("part", "claims"))
	a.view.stewardship = stewards.NewStewardship(stewards.StewardshipConfig{
		Self: a.config.Name, Members: a.member.Peers().Deciders(), Witness: a.member.Witness(), Logger: a.log.With("part", "stewards"),
	})
	a.onStop(func(context.Context) { a.view.stewardship.Close() })
	recorder := objects.DefaultRecorderConfig()
	recorder.Store, recorder.Component, recorder.Host = a.view.store, "virtmesh", a.config.Name
	recorder.Logger, recorder.Registerer = a.log.With("part", "events"), a.metrics
	a.view.recorder, err = objects.NewRecorder(recorder)
	return part("prepare events", err)
}

// checkGuestRange returns an error if guests cannot have a range of addresses on this host.
func checkGuestRange(guests netip.Prefix) error {
	routes, err := network.HostRoutes()
	if err != nil {
		return err
	}
	return network.CheckRange(guests, routes, true)
}

// openHost finds out what this host can run, and opens the host's resources
// that guests need.
func (a *Agent) openHost(ctx context.Context) error {
	var subnet netip.Prefix
	var err error
	if a.config.Role != host.RoleWitness {
		if subnet, err = a.member.ClaimSubnet(ctx, a.config.Network.PodCIDR, checkGuestRange); err != nil {
			return part("look after guests", err)
		}
	}
	a.host, err = host.Open(ctx, a.config.HostConfig, host.Deps{
		Self: host.Self{Name: a.config.Name, Advertise: a.config.Advertise, StateDir: a.config.StateDir, RunDir: a.config.RunDir, Facts: gossip.Facts{
			MeshAddr: a.config.MeshAddress(), Zone: a.config.Zone, Version: a.options.Version,
			LowestFeatureLevel: int(level.Lowest), FeatureLevel: int(level.Highest), Labels: a.config.Labels,
		}},
		Store: a.view.store, Secrets: a.view.secrets, Cache: a.view.cache, Claims: a.view.claims, Recorder: a.view.recorder, Stewardship: a.view.stewardship,
		Mesh: a.member.Peers(), ReachesLeader: a.member.Store().ReachesLeader, Confirm: a.member.Store().Confirm, Subnet: subnet, Logger: a.log, Metrics: a.metrics,
	})
	if err != nil {
		return part("look after guests", err)
	}
	a.onStop(func(context.Context) { a.host.Close() })
	return nil
}

// openRouter reaches the guests of all hosts.
func (a *Agent) openRouter(context.Context) error {
	a.router = guests.NewRouter(guests.Config{
		Self: a.config.Name, Local: a.host.Guests(), Offerer: a.host.Offerer(),
		HostOf: guests.HostOf(objects.For[*kubevirtv1.VirtualMachineInstance](a.view.cache), a.view.claims),
		Dial: func(ctx context.Context, name string) (net.Conn, error) {
			address, err := a.member.Peers().Resolve(ctx, name)
			if err != nil {
				return nil, err
			}
			return a.member.Port().DialHost(ctx, port.ProtoRPC, name, address)
		},
		Speaker: a.member.Speaker,
	})
	a.onStop(func(context.Context) { a.router.Close() })
	return nil
}

// addLoops assembles the control loops; Run runs them.
func (a *Agent) addLoops(context.Context) error {
	a.loops = []stewards.Loop{
		{Name: "objects", Run: func(ctx context.Context) error { a.view.cache.Run(ctx); return nil }},
		{Name: "events", Run: func(ctx context.Context) error { a.view.recorder.Run(ctx); return nil }},
		{Name: "old tokens", Run: func(ctx context.Context) error {
			return a.member.PruneTokens(ctx, func() bool { return a.view.stewardship.Mine("tokens", objects.Key{Name: "tokens"}) })
		}},
		{Name: "ended certificates", Run: a.member.CutOffEnded},
	}
	a.loops = append(a.loops, a.host.Loops()...)
	loops, err := roster.Loops(roster.Deps{
		Host: a.config.Name, Store: a.view.store, Cache: a.view.cache, Claims: a.view.claims,
		Recorder: a.view.recorder, Stewardship: a.view.stewardship, Gossip: a.member.Gossip(), Members: a.member.Peers(), Witness: a.member.Witness(),
		Levels: a.member, Offers: a.router, Acts: a.acts(), Logger: a.log, Metrics: a.metrics,
	})
	a.loops = append(a.loops, loops...)
	return part("assemble the stewards", err)
}

// serveHosts answers the other hosts' requests about guests.
func (a *Agent) serveHosts(context.Context) error {
	listener, err := a.member.Port().Listen(port.ProtoRPC)
	if err != nil {
		return part("serve other hosts", err)
	}
	log := a.log.With("part", "guests")
	handler := port.MeetCallers(a.member.Speaker, log, guests.NewHandler(a.host.Guests(), a.host.Offerer(), a.log))
	rpc := port.ServeRPC(listener, handler, log)
	a.onStop(func(ctx context.Context) { rpc.Shutdown(ctx) })
	return nil
}

// openAudit begins to write down who does what through this host's APIs.
func (a *Agent) openAudit(context.Context) (err error) {
	if a.audit, err = audit.Open(a.config.Audit, a.config.StateDir); err != nil {
		return part("open the audit log", err)
	}
	a.onStop(func(context.Context) { _ = a.audit.Close() })
	return nil
}

// openAPI makes the Kubernetes API.
func (a *Agent) openAPI(context.Context) (err error) {
	cfg := api.DefaultConfig()
	cfg.Store, cfg.Instances = a.view.replica, a.router
	cfg.Defaults = roster.Defaults(a.view.cache)
	cfg.ClientCAs = func() *x509.CertPool { return a.member.Admission().ClientCAs(a.member.Identity().Roots()) }
	cfg.Tokens = tokens.Config{Signer: a.member, Store: a.view.store}
	cfg.Logger, cfg.Metrics, cfg.Audit = a.log.With("part", "api"), a.metrics, a.audit
	roles := access.New(access.Config{Cache: a.view.cache, Level: a.view.replica.FeatureLevel})
	cfg.Authorizer = roles
	cfg.Ready = map[string]func(context.Context) error{"store": a.storeReady, "roles": rolesReady(roles)}
	cfg.Address = a.config.MeshAddress()
	a.api, err = api.New(cfg)
	return part("open the API", err)
}

// storeReady returns an error if this host cannot answer requests about the
// mesh.
func (a *Agent) storeReady(context.Context) error {
	if err := a.member.Err(); err != nil {
		return err
	}
	if leader, _ := a.member.Store().Leader(); leader == "" {
		return errors.New("no leader is known")
	}
	return nil
}

// rolesReady returns a check that this host knows what users may do. It waits a moment for the
// first copy.
func rolesReady(roles *access.Roles) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		return roles.AwaitSync(ctx)
	}
}

// serveUsers opens the addresses where users reach the Kubernetes API and the
// administration API: the mesh port, the administration socket and the metrics
// address. Only root on this host may open the socket, and then acts as the
// host itself with an administrator's rights: root can have the certificate of one made.
func (a *Agent) serveUsers(context.Context) error {
	a.onStop(func(context.Context) { a.http.Close() })
	kubernetes := a.api.Handler()
	local := port.AsHost(a.member.Identity().Leaf, a.api.RootHandler())
	mesh := a.member.Administration(objects.FromRaft(a.meter.Raft(a.member.Store(), "membership"), nil), a.host, a.tellEnd)

	listener, err := a.member.Port().API()
	if err != nil {
		return part("serve the API", err)
	}
	meet := func(next http.Handler) http.Handler { return port.MeetCallers(a.member.Speaker, a.log, next) }
	strangers, err := a.member.Port().Strangers()
	if err != nil {
		return part("serve the API", err)
	}
	users := port.JudgeClients(a.member.Admission().Judge, admin.Beside(a.audit.Record(port.FromAdministrator, meet(admin.NewHandler(mesh, port.FromAdministrator))), kubernetes))
	a.http.AddClients(listener, users)
	a.http.AddStrangers(strangers, users, a.api.RecognisesToken)

	if listener, err = admin.OpenSocket(a.config.Socket()); err != nil {
		return err
	}
	root := admin.WithBackup(a.member, admin.WithKeyring(a.member, meet(admin.NewHandler(mesh, admin.AsRoot))))
	a.http.Add(listener, admin.Beside(a.audit.Record(admin.AsRoot, root), local))

	if a.config.MetricsListen == "" {
		return nil
	}
	if listener, err = net.Listen("tcp", a.config.MetricsListen); err != nil {
		return part("listen for metrics", err)
	}
	a.http.AddStrangers(listener, a.api.MetricsHandler(), nil)
	return nil
}
