package api

import (
	"fmt"
	"net/http"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericapiserver "k8s.io/apiserver/pkg/server"
)

const (
	// streamsPerUser is how many watches, consoles and other lasting requests one user has open on a
	// host, and streamsOfUsers how many all users have together. Those of administrators are not
	// counted, so nobody can take their place.
	streamsPerUser = 256
	streamsOfUsers = 4096
	// streamRetry is after how many seconds a client with too many may try again.
	streamRetry = 5
)

// streams counts the lasting requests of users. Its methods may be called concurrently.
type streams struct {
	mu     sync.Mutex
	byUser map[string]int
	all    int
}

func newStreams() *streams { return &streams{byUser: map[string]int{}} }

// enter counts a request of a user, and reports whether there is room for it.
func (s *streams) enter(user string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byUser[user] >= streamsPerUser || s.all >= streamsOfUsers {
		return false
	}
	s.byUser[user]++
	s.all++
	return true
}

func (s *streams) leave(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.byUser[user]--; s.byUser[user] == 0 {
		delete(s.byUser, user)
	}
}

// bound refuses lasting requests beyond the limits, with status 429. The library bounds the others.
func (s *streams) bound(next http.Handler, c *genericapiserver.Config) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, _ := genericapirequest.RequestInfoFrom(r.Context())
		who, known := genericapirequest.UserFrom(r.Context())
		if info == nil || !known || !c.LongRunningFunc(r, info) || slices.Contains(who.GetGroups(), user.SystemPrivilegedGroup) {
			next.ServeHTTP(w, r)
			return
		}
		if !s.enter(who.GetName()) {
			err := apierrors.NewTooManyRequests(fmt.Sprintf("%s has too many watches and streams open on this host: a user has at most %d, and all together have %d; end some, or use another host",
				who.GetName(), streamsPerUser, streamsOfUsers), streamRetry)
			responsewriters.ErrorNegotiated(err, c.Serializer, schema.GroupVersion{Group: info.APIGroup, Version: info.APIVersion}, w, r)
			return
		}
		defer s.leave(who.GetName())
		next.ServeHTTP(w, r)
	})
}
