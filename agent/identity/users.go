package identity

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/hostname"
	"virtmesh/raftstore"
)

// UsersPrefix, followed by the name, holds the UserRecord of each person who is a user of the
// mesh without being an administrator. There are none below level.Access.
const UsersPrefix = "/mesh/users/"

const (
	// MaxUserGroups is how many groups a user can be in.
	MaxUserGroups = 32
	userIDLen     = 16
)

// groupPattern is which names groups can have. Those of the system are refused besides.
var groupPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@:/-]{0,62}$`)

// reservedPrefixes begin the names of users and groups that the mesh itself gives.
func reservedPrefixes() []string { return []string{"system:", "virtmesh:"} }

// UserRecord is a person who has what rights roles give him, and his groups, and no others.
type UserRecord struct {
	Name string `json:"name"`
	// ID is random, and another one after the groups were changed. A certificate is listed with
	// the ID of its user (ClientRecord.UserID), so that it ends when the record goes or changes.
	ID string `json:"id"`
	// Groups are those that the user's certificates name, sorted.
	Groups  []string  `json:"groups,omitempty"`
	Created time.Time `json:"created"`
	// CreatedBy is the administrator who made the user; "root" for root on a host.
	CreatedBy string `json:"createdBy,omitempty"`
	// Unreadable is why the record cannot be decoded; nil if it can. Nothing but Name is known
	// then, and hosts of this version refuse the certificates of the user.
	Unreadable error `json:"-"`
}

// Validate returns a fault.Invalid for a name or a group that users cannot have.
func (r UserRecord) Validate() error {
	if !userPattern.MatchString(r.Name) {
		return fault.InField("name", "%q is not the name of a user: up to 63 letters, digits and any of . _ @ -, and a letter or a digit first", hostname.Clip(r.Name))
	}
	if len(r.Groups) > MaxUserGroups {
		return fault.InField("groups", "are %d; a user can be in %d", len(r.Groups), MaxUserGroups)
	}
	for _, group := range r.Groups {
		if !groupPattern.MatchString(group) {
			return fault.InField("groups", "has %q, which is not the name of a group: up to 63 letters, digits and any of . _ @ : / -, and a letter or a digit first", hostname.Clip(group))
		}
		for _, prefix := range reservedPrefixes() {
			if strings.HasPrefix(strings.ToLower(group), prefix) {
				return fault.InField("groups", "has %q: names that begin with %s are for the mesh itself", group, prefix).
					WithRemedy("bind roles to the user, or to a group of another name")
			}
		}
	}
	return nil
}

func userKey(name string) string { return UsersPrefix + name }

// Users are the people who are not administrators. Its methods may be called concurrently.
type Users struct {
	store   Store
	clients *Clients
}

// NewUsers returns the users in a store.
func NewUsers(store Store) *Users { return &Users{store, NewClients(store)} }

// readUser returns the record of a user and how it is stored, or raftstore.ErrNotFound.
func readUser(ctx context.Context, store Store, name string, opts raftstore.ReadOptions) (UserRecord, raftstore.Record, error) {
	var rec UserRecord
	stored, err := readJSON(ctx, store, userKey(name), opts, &rec)
	rec.Name = name
	return rec, stored, err
}

// List returns the users by name, also those whose record is Unreadable.
func (u *Users) List(ctx context.Context) ([]UserRecord, error) {
	res, err := u.store.List(ctx, raftstore.ListRequest{Prefix: UsersPrefix})
	if err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	recs := make([]UserRecord, len(res.Records))
	for i, r := range res.Records {
		if err := json.Unmarshal(r.Value, &recs[i]); err != nil {
			recs[i] = UserRecord{Unreadable: err} // and nothing of what was decoded before the error
		}
		recs[i].Name = strings.TrimPrefix(r.Key, UsersPrefix)
	}
	return recs, nil
}

// UserRequest asks for a user.
type UserRequest struct {
	Name   string
	Groups []string
	// Replace says that a user who is there and has other groups gets these, and loses his
	// certificates. Without, no Groups stand for those that he has.
	Replace bool
	// By is who asks.
	By string
}

// UserChange is what a UserRequest has changed.
type UserChange struct {
	User             UserRecord
	Created, Changed bool
	// Ended are the certificates that named other groups.
	Ended []ClientRecord
}

// Add makes a user, or says that he is there. It returns a fault.AlreadyExists if he is there
// with other groups and they are not to be replaced, and a fault.Conflict if an administrator has
// certificates in that name.
func (u *Users) Add(ctx context.Context, request UserRequest) (UserChange, error) {
	wanted := UserRecord{
		Name: request.Name, ID: newUserID(), Groups: slices.Compact(slices.Sorted(slices.Values(request.Groups))),
		Created: time.Now().UTC(), CreatedBy: request.By,
	}
	if err := wanted.Validate(); err != nil {
		return UserChange{}, err
	}
	have, stored, err := readUser(ctx, u.store, wanted.Name, raftstore.ReadOptions{})
	var op raftstore.Op
	change := UserChange{User: wanted}
	switch {
	case errors.Is(err, raftstore.ErrNotFound):
		change.Created = true
		if err = u.refuseAdministratorsName(ctx, wanted.Name); err == nil {
			op, err = putOp(userKey(wanted.Name), wanted)
		}
	case isUnreadable(err):
		return UserChange{}, fault.New(fault.Conflict, "there is a user %s, and %w", wanted.Name, err).
			About(wanted.Name).WithRemedy("remove him first: 'virtmesh user rm " + wanted.Name + "'")
	case err != nil:
	case slices.Equal(have.Groups, wanted.Groups) || len(wanted.Groups) == 0 && !request.Replace:
		return UserChange{User: have}, nil
	case !request.Replace:
		return UserChange{}, fault.New(fault.AlreadyExists, "the user %s is there already, with %s and not with %s", have.Name, groupsText(have.Groups), groupsText(wanted.Groups)).
			About(have.Name).WithRemedy("--replace-groups gives him the new ones and ends his certificates, which name the old ones")
	default:
		change.Changed = true
		change.User.Created, change.User.CreatedBy = have.Created, have.CreatedBy
		op, err = rewriteOp(stored, change.User)
	}
	if err == nil {
		_, err = u.store.Commit(ctx, raftstore.Txn{If: []raftstore.Condition{{Key: op.Key, ModRevision: stored.ModRevision}}, Ops: []raftstore.Op{op}})
	}
	if err != nil {
		return UserChange{}, userFault("add", wanted.Name, err)
	}
	if change.Changed {
		change.Ended, err = u.endCertificates(ctx, change.User, request.By)
	}
	return change, err
}

// Remove removes a user, and returns the certificates that ended with that; fault.NotFound if
// there is no such user. No host takes them, or makes another one, as soon as it has the change.
func (u *Users) Remove(ctx context.Context, name, by string) ([]ClientRecord, error) {
	_, stored, err := readUser(ctx, u.store, name, raftstore.ReadOptions{})
	if errors.Is(err, raftstore.ErrNotFound) {
		// Whoever removed him before may have died before the list was brought in line.
		ended, err := u.endCertificates(ctx, UserRecord{Name: name}, by)
		if err == nil && len(ended) == 0 {
			err = noSuchUser(name)
		}
		return ended, err
	}
	if err == nil || isUnreadable(err) {
		_, err = u.store.Commit(ctx, raftstore.Txn{
			If:  []raftstore.Condition{{Key: userKey(name), ModRevision: stored.ModRevision}},
			Ops: []raftstore.Op{{Key: userKey(name), Delete: true}},
		})
	}
	if err != nil {
		return nil, userFault("remove", name, err)
	}
	return u.endCertificates(ctx, UserRecord{Name: name}, by)
}

// endCertificates marks the certificates of a user as revoked that are of another record than
// this one. They are refused without the marks, which say in the list who ended them; and none
// can be listed any more, since that is conditional on the record.
func (u *Users) endCertificates(ctx context.Context, user UserRecord, by string) ([]ClientRecord, error) {
	ended, err := u.clients.revokeChains(ctx, by, func(recs []ClientRecord) (map[string]bool, error) {
		chosen := map[string]bool{}
		for _, rec := range recs {
			if rec.User == user.Name && rec.UserID != "" && rec.UserID != user.ID {
				chosen[rec.chain()] = true
			}
		}
		return chosen, nil
	})
	if err != nil {
		return ended, fmt.Errorf("the certificates of %s are refused from now on, and the list does not say so yet: %w", user.Name, err)
	}
	return ended, nil
}

// refuseAdministratorsName returns a fault.Conflict if somebody could still use a certificate of
// an administrator in a name: it would be refused once a user has the name, and who owns it
// would not know why.
func (u *Users) refuseAdministratorsName(ctx context.Context, name string) error {
	recs, err := u.clients.List(ctx)
	if err != nil {
		return err
	}
	for _, rec := range recs {
		if rec.User == name && rec.UserID == "" && !rec.Unlisted && rec.Revoked == nil && time.Now().Before(rec.Expires) {
			return fault.New(fault.Conflict, "an administrator has a certificate in the name %s that is valid until %s", name, rec.Expires.Format(time.RFC3339)).
				About(name).WithRemedy("end it with 'virtmesh cert revoke " + name + "', or take another name")
		}
	}
	return nil
}

func userFault(act, name string, err error) error {
	var conflict *raftstore.ConflictError
	if errors.As(err, &conflict) {
		return fault.New(fault.Conflict, "the user %s was changed meanwhile", name).About(name).WithRemedy("try again")
	}
	return fmt.Errorf("%s the user %s: %w", act, name, err)
}

func noSuchUser(name string) *fault.Fault {
	return fault.New(fault.NotFound, "the mesh has no user %q", hostname.Clip(name)).About(hostname.Clip(name)).WithRemedy("'virtmesh user ls' lists them")
}

func groupsText(groups []string) string {
	return cmp.Or(strings.Join(groups, ", "), "no groups")
}

func newUserID() string {
	var id [userIDLen]byte
	rand.Read(id[:])
	return hex.EncodeToString(id[:])
}
