package keyring

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	"virtmesh/agent/bearer"
	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/port"
	"virtmesh/agent/sealed"
)

const (
	// attempt bounds a call to one host that is heard.
	attempt = 5 * time.Second
	// unheardAttempt bounds a call to one that is not: it is most likely off, and who waits
	// for the answer may have only attempt himself.
	unheardAttempt = 1500 * time.Millisecond
)

// ClientConfig says who votes and how to connect to them.
type ClientConfig struct {
	// Self is the name of this host, which is not asked.
	Self string
	// Voters returns the names of the hosts that vote.
	Voters func() []string
	// Heard returns the names of the hosts that gossip hears. They are asked before others.
	Heard func() []string
	// Dial opens an authenticated connection to a host's keyring protocol.
	Dial func(ctx context.Context, host string) (net.Conn, error)
	// Speaker returns what this host says of itself to the others.
	Speaker func() port.Speaker
}

// Client asks the voters. Its methods may be called concurrently. It keeps no connection.
type Client struct {
	cfg  ClientConfig
	http *http.Client
}

var _ identity.Authority = (*Client)(nil)

// NewClient returns a Client.
func NewClient(cfg ClientConfig) *Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, fmt.Errorf("host in %q: %w", addr, err)
			}
			// net/http lets an attempt to connect go on when its request has ended.
			ctx, cancel := context.WithTimeout(ctx, attempt)
			defer cancel()
			return cfg.Dial(ctx, host)
		},
		// Calls are rare, and a voter's places are for those who need one now.
		DisableKeepAlives: true,
	}
	return &Client{cfg: cfg, http: &http.Client{Transport: transport}}
}

// SignAdmission implements identity.Authority.
func (c *Client) SignAdmission(ctx context.Context, request identity.AdmissionRequest) (identity.Issued, error) {
	return askVoters[identity.Issued](ctx, c, http.MethodPost, pathAdmission, request)
}

// SignRenewal implements identity.Authority.
func (c *Client) SignRenewal(ctx context.Context, proof identity.RenewalProof) (identity.Issued, error) {
	return askVoters[identity.Issued](ctx, c, http.MethodPost, pathRenewal, proof)
}

// SignClient implements identity.Authority.
func (c *Client) SignClient(ctx context.Context, request identity.ClientSigning) (identity.Issued, error) {
	return askVoters[identity.Issued](ctx, c, http.MethodPost, pathClient, request)
}

// SignToken returns the token of a service account that a voter has signed.
func (c *Client) SignToken(ctx context.Context, request bearer.Request) (bearer.Signed, error) {
	return askVoters[bearer.Signed](ctx, c, http.MethodPost, pathToken, request)
}

// FetchCAKey returns the private key, PEM, of the CA with a pin from the first of the hosts that
// gives it. They give it to a voter only.
func (c *Client) FetchCAKey(ctx context.Context, ca identity.Pin, hosts []string) ([]byte, error) {
	answer, err := askHosts[caKeyAnswer](ctx, c, hosts, http.MethodGet, pathCAKey+"?"+pinParameter+"="+ca.String(), nil)
	if err != nil {
		return nil, err
	}
	key, err := identity.ParseKey(answer.Key)
	if err != nil {
		return nil, fmt.Errorf("read the key of the CA: %w", err)
	}
	if pin, err := identity.PinOfKey(&key.PublicKey); err != nil || pin != ca {
		return nil, errors.Join(err, errors.New("the key that was given is not that of the CA"))
	}
	return answer.Key, nil
}

// FetchSecretKeys returns the private keys for Secrets that a host holds. It gives them to a
// voter only.
func (c *Client) FetchSecretKeys(ctx context.Context, host string) ([]sealed.PrivateKey, error) {
	var answer secretKeysAnswer
	if err := c.call(ctx, host, http.MethodGet, pathSecrets, nil, &answer); err != nil {
		return nil, err
	}
	return answer.parse()
}

// OpenLocks returns the data keys of locks. One is nil if no key of the mesh opens its lock: a
// voter may say so only because its copy of the state is behind, so the others are asked for
// what is left, and it is true if all of them, or a majority of the voters, say the same.
func (c *Client) OpenLocks(ctx context.Context, locks []sealed.Lock) ([][]byte, error) {
	voters := c.cfg.Voters()
	dataKeys := make([][]byte, len(locks))
	var failed []error
	answered := 0
	for _, voter := range c.inOrder(voters) {
		err := c.openSome(ctx, voter, locks, dataKeys)
		if final(err) {
			return nil, err
		}
		if err != nil {
			failed = append(failed, err)
		} else {
			answered++
		}
		if allOpened(dataKeys) || 2*answered > len(voters) || ctx.Err() != nil {
			break
		}
	}
	if allOpened(dataKeys) || answered > 0 && len(failed) == 0 || 2*answered > len(voters) {
		return dataKeys, nil
	}
	return nil, noneAnswers(failed).WithRemedy("Secrets can be read while a voter that holds their key answers: 'virtmesh status' names the voters")
}

// openSome asks a voter for the data keys that are still nil.
func (c *Client) openSome(ctx context.Context, voter string, locks []sealed.Lock, dataKeys [][]byte) error {
	var request openRequest
	var places []int
	for i, lock := range locks {
		if dataKeys[i] == nil {
			request.Locks, places = append(request.Locks, lock), append(places, i)
		}
	}
	var answer openAnswer
	if err := c.call(ctx, voter, http.MethodPost, pathOpen, request, &answer); err != nil {
		return err
	}
	if len(answer.DataKeys) != len(places) {
		return fmt.Errorf("ask %s: %d data keys for %d locks", voter, len(answer.DataKeys), len(places))
	}
	for i, place := range places {
		dataKeys[place] = answer.DataKeys[i]
	}
	return nil
}

func allOpened(dataKeys [][]byte) bool {
	return !slices.ContainsFunc(dataKeys, func(key []byte) bool { return key == nil })
}

// BackupFor returns for whom backups are encrypted, from the first voter that knows.
func (c *Client) BackupFor(ctx context.Context) (identity.BackupFor, error) {
	return askVoters[identity.BackupFor](ctx, c, http.MethodGet, pathBackupFor, nil)
}

// Holding returns what a host has of the keyring.
func (c *Client) Holding(ctx context.Context, host string) (Holding, error) {
	var h Holding
	err := c.call(ctx, host, http.MethodGet, pathHolding, nil, &h)
	return h, err
}

// GossipKeys returns the keys of gossip that a host has.
func (c *Client) GossipKeys(ctx context.Context, host string) (identity.GossipKeyring, error) {
	var keys identity.GossipKeyring
	err := c.call(ctx, host, http.MethodGet, pathGossip, nil, &keys)
	return keys, err
}

func askVoters[A any](ctx context.Context, c *Client, method, path string, request any) (A, error) {
	return askHosts[A](ctx, c, c.cfg.Voters(), method, path, request)
}

// askHosts asks one host after the other, until one answers or says what every other one
// would say too.
func askHosts[A any](ctx context.Context, c *Client, hosts []string, method, path string, request any) (A, error) {
	var failed []error
	for _, host := range c.inOrder(hosts) {
		var answer A
		err := c.call(ctx, host, method, path, request, &answer)
		if err == nil {
			return answer, nil
		}
		if final(err) {
			return answer, err
		}
		failed = append(failed, err)
		if ctx.Err() != nil {
			break
		}
	}
	var none A
	return none, noneAnswers(failed)
}

// noneAnswers is the error of who got no answer from any host.
func noneAnswers(failed []error) *fault.Fault {
	if len(failed) == 0 {
		return fault.New(fault.Unavailable, "this host does not hold the keys of the mesh and knows no voter")
	}
	return fault.New(fault.Unavailable, "no host that holds the keys of the mesh answers: %w", errors.Join(failed...))
}

// inOrder returns the other ones of some hosts, each once, in the order in which they are
// asked: those that are heard come first.
func (c *Client) inOrder(hosts []string) []string {
	heard := c.cfg.Heard()
	var first, last []string
	for _, host := range hosts {
		switch {
		case host == c.cfg.Self || slices.Contains(first, host) || slices.Contains(last, host):
		case slices.Contains(heard, host):
			first = append(first, host)
		default:
			last = append(last, host)
		}
	}
	return append(first, last...)
}

// patience returns how long a call to a host may take.
func (c *Client) patience(host string) time.Duration {
	if slices.Contains(c.cfg.Heard(), host) {
		return attempt
	}
	return unheardAttempt
}

// final reports whether every voter would answer the same.
func final(err error) bool {
	for _, code := range []fault.Code{fault.NoHost, fault.Expelled, fault.BadProof, fault.Invalid} {
		if errors.Is(err, code) {
			return true
		}
	}
	return false
}

func (c *Client) call(ctx context.Context, host, method, path string, request, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, c.patience(host))
	defer cancel()
	var body bytes.Buffer
	if request != nil {
		if err := json.NewEncoder(&body).Encode(request); err != nil {
			return fmt.Errorf("encode the request: %w", err)
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://"+host+path, &body)
	if err != nil {
		return fmt.Errorf("make the request: %w", err)
	}
	c.cfg.Speaker().Introduce(r.Header)
	response, err := c.http.Do(r)
	if err != nil {
		return fmt.Errorf("ask %s: %w", host, fault.New(fault.Unreachable, "%w", err))
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("ask %s: %w", host, fault.Read(response))
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxBody)).Decode(answer); err != nil {
		return fmt.Errorf("ask %s: read the answer: %w", host, err)
	}
	return nil
}
