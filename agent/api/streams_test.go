package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericapiserver "k8s.io/apiserver/pkg/server"
)

// A user has so many watches and no more; that of another user, an administrator's, and a request
// that does not last are none of his.
func TestStreamsOfAUserAreBounded(t *testing.T) {
	t.Parallel()
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	end := make(chan struct{})
	begun := make(chan struct{})
	config := &genericapiserver.Config{
		Serializer:      serializer.NewCodecFactory(scheme),
		LongRunningFunc: func(_ *http.Request, info *genericapirequest.RequestInfo) bool { return info.Verb == "watch" },
	}
	handler := newStreams().bound(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/lasts" {
			begun <- struct{}{}
			<-end
		}
	}), config)
	ask := func(path, verb, name string, groups ...string) *httptest.ResponseRecorder {
		ctx := genericapirequest.WithUser(t.Context(), &user.DefaultInfo{Name: name, Groups: groups})
		ctx = genericapirequest.WithRequestInfo(ctx, &genericapirequest.RequestInfo{Verb: verb, APIVersion: "v1"})
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil))
		return answer
	}
	var open sync.WaitGroup
	for range streamsPerUser {
		open.Go(func() { ask("/lasts", "watch", "alice") })
		<-begun
	}
	if answer := ask("/", "watch", "alice"); answer.Code != http.StatusTooManyRequests || answer.Header().Get("Retry-After") == "" || !strings.Contains(answer.Body.String(), "alice has too many watches") {
		t.Errorf("one more watch: %d %s", answer.Code, answer.Body)
	}
	for what, answer := range map[string]*httptest.ResponseRecorder{
		"a list": ask("/", "list", "alice"), "another user": ask("/", "watch", "bob"), "an administrator": ask("/", "watch", "alice", user.SystemPrivilegedGroup),
	} {
		if answer.Code != http.StatusOK {
			t.Errorf("%s: %d %s", what, answer.Code, answer.Body)
		}
	}
	close(end)
	open.Wait()
	if answer := ask("/", "watch", "alice"); answer.Code != http.StatusOK {
		t.Errorf("after hers have ended: %d %s", answer.Code, answer.Body)
	}
}

// All users together leave room for administrators.
func TestStreamsOfAllUsersAreBounded(t *testing.T) {
	t.Parallel()
	s := newStreams()
	for i := range streamsOfUsers {
		if !s.enter(string(rune('a' + i/streamsPerUser))) {
			t.Fatalf("no room for stream %d", i)
		}
	}
	if s.enter("z") {
		t.Error("there is room for more")
	}
	s.leave("a")
	if !s.enter("z") {
		t.Error("no room after one has ended")
	}
}
