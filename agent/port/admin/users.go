package admin

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// UsersPath is where the users of the mesh are listed and added; one is removed below it.
const UsersPath = "/mesh/v1/users"

// UserPath returns where a user is removed.
func UserPath(name string) string { return UsersPath + "/" + url.PathEscape(name) }

// Users implements what concerns the users of the mesh: people who are not administrators and
// have the rights that roles give them.
type Users interface {
	// AddUser makes a user in the name of by, or says that he is there.
	AddUser(ctx context.Context, request UserRequest, by string) (*UserChange, error)
	// ListUsers returns the users by name.
	ListUsers(ctx context.Context) ([]User, error)
	// RemoveUser removes a user in the name of by, and returns the certificates that ended
	// with that.
	RemoveUser(ctx context.Context, name, by string) ([]Certificate, error)
}

// User is a user of the mesh.
type User struct {
	Name      string    `json:"name"`
	Groups    []string  `json:"groups,omitempty"`
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"createdBy,omitempty"`
	// Certificates are those that can be used now.
	Certificates []Certificate `json:"certificates,omitempty"`
	// Unreadable is why the record of the user cannot be decoded; no more is known than Name then.
	Unreadable string `json:"unreadable,omitempty"`
}

// UserRequest asks for a user.
type UserRequest struct {
	Name   string   `json:"name"`
	Groups []string `json:"groups,omitempty"`
	// ReplaceGroups says that a user who is there with other groups gets these, and that his
	// certificates end. Without, such a request is refused, and no groups stand for those that
	// he has.
	ReplaceGroups bool `json:"replaceGroups,omitempty"`
}

// UserChange says what was changed for a UserRequest.
type UserChange struct {
	User    User `json:"user"`
	Created bool `json:"created,omitempty"`
	// GroupsReplaced says that the user had other groups before; Ended are the certificates
	// that named those.
	GroupsReplaced bool          `json:"groupsReplaced,omitempty"`
	Ended          []Certificate `json:"ended,omitempty"`
}

// handleUsers serves what concerns the users of the mesh.
func handleUsers(mux *http.ServeMux, mesh Users, authenticate func(*http.Request) (user string, allowed bool)) {
	mux.HandleFunc("GET "+UsersPath, replySoon(func(r *http.Request) (any, error) {
		return mesh.ListUsers(r.Context())
	}))
	mux.HandleFunc("POST "+UsersPath, replySoon(func(r *http.Request) (any, error) {
		var request UserRequest
		if err := decodeBody(r, &request); err != nil {
			return nil, err
		}
		by, _ := authenticate(r)
		return mesh.AddUser(r.Context(), request, by)
	}))
	mux.HandleFunc("DELETE "+UsersPath+"/{name}", replySoon(func(r *http.Request) (any, error) {
		by, _ := authenticate(r)
		return mesh.RemoveUser(r.Context(), r.PathValue("name"), by)
	}))
}
