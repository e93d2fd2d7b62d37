package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/port"
)

// Mesh implements the operations of the API. Its errors are faults, or wrap them. Its
// methods may be called concurrently.
type Mesh interface {
	Status(ctx context.Context) (*Status, error)
	CreateToken(ctx context.Context, ttl time.Duration) (*Token, error)
	ListTokens(ctx context.Context) ([]Token, error)
	RevokeToken(ctx context.Context, id string) error
	People
	Users
	Keys
	CA
	// Leave hands over this host's duties and stops its agent for good.
	Leave(ctx context.Context) error
	// RemoveHost removes a dead host from the mesh.
	RemoveHost(ctx context.Context, removal Removal) (*Removed, error)
	// RaiseLevel raises the mesh's feature level for good.
	RaiseLevel(ctx context.Context, to uint32) error
}

// Removal is a request to remove a host from the mesh.
type Removal struct {
	// Host is the name of the host, By the user who asks.
	Host, By string
	// Force removes the host even if the mesh still hears it.
	Force bool
	// KeepKeys leaves the keys that the host knows as they are.
	KeepKeys bool
}

// Patience is how long a request waits for the mesh to have a leader before the client
// is told that there is none. It is longer than an election takes.
const Patience = 10 * time.Second

// maxBody bounds a request body; the largest legitimate one is a certificate request.
const maxBody = 64 << 10

// AsRoot authenticates the requests on the administration socket, which only root may
// open. Which person acts as root is not known.
func AsRoot(*http.Request) (user string, allowed bool) { return "root", true }

// NewHandler serves the API. authenticate decides, by the connection of a request,
// which user sent it and whether the user may use the API. Who shows a certificate and may not
// use it is still passed on to Mesh.IssueCredentials.
func NewHandler(mesh Mesh, authenticate func(*http.Request) (user string, allowed bool)) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /mesh/v1/status", replyJSON(func(r *http.Request) (any, error) {
		return mesh.Status(r.Context())
	}))
	mux.HandleFunc("POST /mesh/v1/tokens", replySoon(func(r *http.Request) (any, error) {
		var request TokenRequest
		if err := decodeBody(r, &request); err != nil {
			return nil, err
		}
		if request.TTL <= 0 || request.TTL > 30*24*time.Hour {
			return nil, fault.InField("ttl", "must be more than 0 and at most 720h, not %s", request.TTL)
		}
		return mesh.CreateToken(r.Context(), request.TTL)
	}))
	mux.HandleFunc("GET /mesh/v1/tokens", replySoon(func(r *http.Request) (any, error) {
		return mesh.ListTokens(r.Context())
	}))
	mux.HandleFunc("DELETE /mesh/v1/tokens/{id}", replySoon(func(r *http.Request) (any, error) {
		return nil, mesh.RevokeToken(r.Context(), r.PathValue("id"))
	}))
	handlePeople(mux, mesh, authenticate)
	handleKeys(mux, mesh, authenticate)
	handleCA(mux, mesh, authenticate)
	mux.HandleFunc("POST /mesh/v1/leave", replyJSON(func(r *http.Request) (any, error) {
		return nil, mesh.Leave(r.Context())
	}))
	mux.HandleFunc("DELETE /mesh/v1/hosts/{name}", replyJSON(func(r *http.Request) (any, error) {
		user, _ := authenticate(r)
		force, err := queryFlag(r, "force")
		if err != nil {
			return nil, err
		}
		keepKeys, err := queryFlag(r, "keepKeys")
		if err != nil {
			return nil, err
		}
		return mesh.RemoveHost(r.Context(), Removal{Host: r.PathValue("name"), By: user, Force: force, KeepKeys: keepKeys})
	}))
	mux.HandleFunc("POST /mesh/v1/level", replyJSON(func(r *http.Request) (any, error) {
		var request LevelRequest
		if err := decodeBody(r, &request); err != nil {
			return nil, err
		}
		if request.To == 0 {
			return nil, fault.InField("to", "must be a feature level, 1 or more")
		}
		return nil, mesh.RaiseLevel(r.Context(), request.To)
	}))
	mux.HandleFunc("/", replyJSON(func(r *http.Request) (any, error) {
		return nil, fmt.Errorf("%s %s: %w", r.Method, r.URL.Path, fault.NotFound)
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, allowed := authenticate(r); !allowed && !renewsOwn(r) {
			fault.Write(w, fault.New(fault.Forbidden, "only administrators may use the mesh's administration API"))
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// queryFlag returns a parameter of a request that is true or false; false without it.
func queryFlag(r *http.Request, name string) (bool, error) {
	value, err := strconv.ParseBool(cmp.Or(r.URL.Query().Get(name), "false"))
	if err != nil {
		return false, fault.InField(name, "must be true or false")
	}
	return value, nil
}

func decodeBody(r *http.Request, into any) error {
	decoder := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxBody))
	// A newer program may send fields that can be skipped; in a request of this version or
	// an older one, an unknown field is a mistake.
	if !port.IsNewer(r.Header) {
		decoder.DisallowUnknownFields()
	}
	if err := decoder.Decode(into); errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: the body is empty", fault.Invalid)
	} else if err != nil {
		return fmt.Errorf("%w: %w", fault.Invalid, err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: more data follows the JSON object", fault.Invalid)
	}
	return nil
}

// replySoon is replyJSON for a request that is one act on the mesh's state: it waits no
// longer than Patience.
func replySoon(do func(*http.Request) (any, error)) http.HandlerFunc {
	return replyJSON(func(r *http.Request) (any, error) {
		ctx, cancel := context.WithTimeout(r.Context(), Patience)
		defer cancel()
		return do(r.WithContext(ctx))
	})
}

func replyJSON(do func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		value, err := do(r)
		switch {
		case err != nil:
			fault.Write(w, err)
		case value == nil:
			w.WriteHeader(http.StatusNoContent)
		default:
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(value) // fails only when the client is gone
		}
	}
}
