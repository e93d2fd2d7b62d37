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

	"virtmesh/storage/stall"
)

// Request is an image on a web server.
type Request struct {
	URL string
	// Header is added to the request.
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
	// Transport replaces the transport that is made from CA and the environment's proxy
	// settings.
	Transport http.RoundTripper
}

// DefaultStallTimeout is used by requests that name none.
const DefaultStallTimeout = time.Minute

// HTTP imports the disk image that r names into a new file at path.
func HTTP(ctx context.Context, r Request, path string, o Options) (Result, error) {
	res, err := fetch(ctx, r, path, o)
	if err != nil {
		return Result{}, fmt.Errorf("import %s into %s: %w", redacted(r.URL), filepath.Base(path), err)
	}
	return res, nil
}

func fetch(ctx context.Context, r Request, path string, o Options) (Result, error) {
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
	rt := r.Transport
	if rt == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		// The body is never unpacked by the transport: its content would then not match
		// the checksum.
		t.DisableCompression = true
		t.DisableKeepAlives = true
		if len(r.CA) > 0 {
			pool := x509.NewCertPool()
			if !pool.AppendCertsFromPEM(r.CA) {
				return nil, nil, fmt.Errorf("%w: the certificate authority is not PEM", ErrInvalid)
			}
			t.TLSClientConfig = &tls.Config{RootCAs: pool}
		}
		rt = t
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
	return &http.Client{Transport: stall.Transport(rt, r.StallTimeout)}, req, nil
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
