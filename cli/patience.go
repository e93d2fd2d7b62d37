package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/fault"
)

// defaultPatience is longer than a host waits for the mesh to have a leader, so that a
// command says why it failed.
const defaultPatience = 30 * time.Second

// timeoutFlag bounds how long a command waits for a mesh that cannot answer.
func timeoutFlag() cli.Flag {
	return &cli.DurationFlag{Name: "timeout", Value: defaultPatience, Action: mustBePositive("timeout"),
		Usage: "how long to wait for a mesh that cannot answer now"}
}

// mustBePositive refuses a duration that leaves no time.
func mustBePositive(flag string) func(*cli.Context, time.Duration) error {
	return func(_ *cli.Context, value time.Duration) error {
		if value <= 0 {
			return fmt.Errorf("--%s must be more than 0, such as 30s, and not %s", flag, value)
		}
		return nil
	}
}

// localFlag lets a command read without the rest of the mesh.
func localFlag() cli.Flag {
	return &cli.BoolFlag{Name: "local", Usage: "show what the host knows, which may be old, without asking the others"}
}

// patience is how long one command waits for a mesh that cannot answer, and what it
// says meanwhile.
type patience struct {
	until time.Time
	limit time.Duration
	// local reads what the host knows; mayBeLocal says that the command has the flag.
	local, mayBeLocal bool
	// overSocket says that the local agent is asked at its socket.
	overSocket bool
	stderr     io.Writer
	once       sync.Once
}

func newPatience(c *cli.Context) *patience {
	limit := c.Duration("timeout")
	// With a time for the whole command, no part of it takes longer.
	if wait := c.Duration("wait"); wait > 0 {
		limit = wait
	}
	p := &patience{until: time.Now().Add(limit), limit: limit, local: c.Bool("local"), stderr: c.App.ErrWriter}
	for _, flag := range c.Command.Flags {
		p.mayBeLocal = p.mayBeLocal || flag.Names()[0] == "local"
	}
	return p
}

// wrap makes a transport patient: client-go repeats requests that the mesh cannot
// answer now, up to ten times and without a word.
func (p *patience) wrap(next http.RoundTripper) http.RoundTripper {
	return patientTransport{next: next, patience: p}
}

// statusPath is asked by 'virtmesh status'. The agent answers without the other hosts.
const statusPath = "/mesh/v1/status"

// silence is the fault of a host that has not answered a request.
func (p *patience) silence(r *http.Request) *fault.Fault {
	who, remedy := r.URL.Host, p.remedy()
	if p.overSocket {
		who = "this host's agent"
	}
	if r.URL.Path == statusPath {
		remedy = "it needs no other host to answer that, so it hangs: 'systemctl restart virtmesh' on it ends that, and its guests go on"
	}
	return fault.New(fault.Unreachable, "%s has not answered within %s", who, p.limit).WithRemedy(remedy)
}

// remedy says what to do when the mesh does not answer.
func (p *patience) remedy() string {
	if p.mayBeLocal && !p.local {
		return "'virtmesh status' shows its hosts, and --local what this one knows"
	}
	return "'virtmesh status' shows its hosts"
}

// patientTransport tells the user why a request is repeated, and ends the repetition
// when there is no time for another attempt.
type patientTransport struct {
	next     http.RoundTripper
	patience *patience
}

// RoundTrip implements http.RoundTripper.
func (t patientTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	read := r.Method == http.MethodGet && r.URL.Query().Get("watch") == "" && r.Header.Get("Upgrade") == ""
	began := time.Now()
	response, err := t.send(r, read)
	if strings.HasPrefix(r.URL.Path, "/mesh/") {
		return response, err // nobody repeats these requests
	}
	if err != nil || response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") == "" {
		return response, err
	}
	return response, t.judgeAnswer(response, r, time.Since(began))
}

// send sends a request. A read ends when the time is over and no answer has come; a
// change does not, because its outcome would then be unknown.
func (t patientTransport) send(r *http.Request, read bool) (*http.Response, error) {
	if !read {
		return t.next.RoundTrip(r)
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	silent := t.patience.silence(r)
	timer := time.AfterFunc(time.Until(t.patience.until), func() { cancel(silent) })
	request := r.Clone(ctx)
	if t.patience.local {
		query := request.URL.Query()
		query.Set("resourceVersion", "0")
		request.URL.RawQuery = query.Encode()
	}
	response, err := t.next.RoundTrip(request)
	timer.Stop()
	if err != nil {
		defer cancel(nil)
		if cause := context.Cause(ctx); errors.Is(cause, silent) {
			return nil, cause
		}
		return nil, err
	}
	response.Body = endingBody{response.Body, func() { cancel(nil) }}
	return response, nil
}

// endingBody ends the request of a body when the body is closed.
type endingBody struct {
	io.ReadCloser
	end func()
}

// Close implements io.Closer.
func (b endingBody) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}

// judgeAnswer decides whether a request that the mesh could not answer may be repeated. An
// attempt is made only if there is time for one that takes as long as the last.
func (t patientTransport) judgeAnswer(response *http.Response, r *http.Request, took time.Duration) error {
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("read why the mesh cannot answer: %w", err)
	}
	response.Body.Close()
	reason := statusMessage(body)
	if reason == "" {
		reason = "the host cannot answer now"
	}
	until := t.patience.until
	if deadline, ok := r.Context().Deadline(); ok && deadline.Before(until) {
		until = deadline
	}
	pause, _ := strconv.Atoi(response.Header.Get("Retry-After"))
	if time.Until(until) < took+time.Duration(pause)*time.Second {
		response.Header.Del("Retry-After")
		body = withRemedy(body, t.patience.remedy())
	} else {
		t.patience.once.Do(func() {
			fmt.Fprintf(t.patience.stderr, "%s; waiting up to %s, Ctrl+C stops\n", strings.ReplaceAll(reason, "\n", " "), t.patience.limit)
		})
	}
	response.Body, response.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	response.Header.Set("Content-Length", strconv.Itoa(len(body)))
	return nil
}

// withRemedy adds a remedy to the Status in body; another body stays as it is.
func withRemedy(body []byte, remedy string) []byte {
	var status metav1.Status
	if err := json.Unmarshal(body, &status); err != nil || status.Message == "" {
		return body
	}
	status.Message += "; " + remedy
	changed, err := json.Marshal(status)
	if err != nil {
		return body
	}
	return changed
}
