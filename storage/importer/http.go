package importer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"time"

	"virtmesh/storage/fetch"
	"virtmesh/storage/stall"
)

// Request is an image on a web server.
type Request struct {
	URL string
	// Header is added to the request. It is not sent to another host to which the server
	// redirects.
	Header http.Header
	// Username and Password are sent if Username is not empty. They are not sent to
	// another host to which the server redirects.
	Username, Password string
	// CA holds the certificates, in PEM, of the authorities that are trusted instead of
	// the system's.
	CA []byte
	// StallTimeout is how long the server may take to send 16 KiB; a slower transfer
	// is cancelled.
	StallTimeout time.Duration
	// Check judges the addresses of the server, and of those to which it redirects; nil is
	// that of a zero fetch.Guard.
	Check fetch.Check
}

// DefaultStallTimeout is used by requests that name none.
const DefaultStallTimeout = time.Minute

// HTTP imports the disk image that r names into a new file at path.
func HTTP(ctx context.Context, r Request, path string, o Options) (Result, error) {
	res, err := download(ctx, r, path, o)
	if err != nil {
		return Result{}, fetch.Told(fmt.Errorf("import %s into %s: %w", redacted(r.URL), filepath.Base(path), err))
	}
	return res, nil
}

func download(ctx context.Context, r Request, path string, o Options) (Result, error) {
	client, req, err := r.prepare(ctx)
	if err != nil {
		return Result{}, err
	}
	if err := o.validate(); err != nil {
		return Result{}, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return Result{}, classify(&sourceError{withoutURL(err)})
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return Result{}, fmt.Errorf("%w: the server says %s", ErrSource, resp.Status)
	}
	res, err := stream(ctx, resp.Body, resp.ContentLength, path, o)
	if err != nil {
		return Result{}, classify(err)
	}
	return res, nil
}

func (r Request) prepare(ctx context.Context) (*http.Client, *http.Request, error) {
	u, err := url.Parse(r.URL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, nil, fmt.Errorf("%w: the URL is not of the form http[s]://host/path", ErrInvalid)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	// The body is never unpacked by the transport: its content would then not match the
	// checksum.
	t.DisableCompression = true
	t.DisableKeepAlives = true
	if len(r.CA) > 0 {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(r.CA) {
			return nil, nil, fmt.Errorf("%w: the certificate authority is not PEM", ErrInvalid)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	if r.Check == nil {
		r.Check = fetch.Guard{}.Check
	}
	if r.StallTimeout <= 0 {
		r.StallTimeout = DefaultStallTimeout
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrInvalid, withoutURL(err))
	}
	for k, v := range r.Header {
		req.Header[http.CanonicalHeaderKey(k)] = v
	}
	if r.Username != "" {
		req.SetBasicAuth(r.Username, r.Password)
	}
	rt := stall.Transport(fetch.Transport(t, r.Check), r.StallTimeout)
	return &http.Client{Transport: rt, CheckRedirect: r.checkRedirect}, req, nil
}

// maxRedirects is how many redirects are followed, as by Go's client.
const maxRedirects = 10

// checkRedirect refuses to go from TLS to a server without, which whoever is on the way
// could be, and keeps the request's own headers from other hosts.
func (r Request) checkRedirect(req *http.Request, via []*http.Request) error {
	last := via[len(via)-1]
	switch {
	case len(via) >= maxRedirects:
		return fmt.Errorf("%w: it redirects more than %d times", ErrSource, maxRedirects)
	case last.URL.Scheme == "https" && req.URL.Scheme != "https":
		return fmt.Errorf("%w: it redirects to a server without TLS", ErrSource)
	}
	if req.URL.Host != via[0].URL.Host {
		req.Header.Del("Authorization")
		for k := range r.Header {
			req.Header.Del(k)
		}
	}
	return nil
}

// withoutURL removes the URL that the HTTP client puts into its errors, because it may
// contain a signature or a password.
func withoutURL(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		return ue.Err
	}
	return err
}

// redacted returns the URL without the parts that may be secret.
func redacted(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "a URL"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}
