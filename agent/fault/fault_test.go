package fault_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"virtmesh/agent/fault"
	"virtmesh/raftstore"
	"virtmesh/storage"
)

// everyCode lists the codes.
var everyCode = []fault.Code{
	fault.Invalid, fault.NotFound, fault.AlreadyExists, fault.Conflict, fault.Unauthorized, fault.Forbidden, fault.Unavailable,
	fault.Unreachable, fault.UnknownOutcome, fault.TooLarge, fault.NotImplemented, fault.Internal, fault.NotRunning, fault.NoGuestAgent,
	fault.TokenInvalid, fault.TokenExpired, fault.TokenUsed, fault.ClockSkew, fault.HostTaken, fault.TooOld, fault.TooNew, fault.BadProof,
	fault.NoHost, fault.Expelled, fault.TooMany,
}

// cross sends err over HTTP and returns what arrives.
func cross(t *testing.T, err error) (*fault.Fault, int) {
	t.Helper()
	recorder := httptest.NewRecorder()
	fault.Write(recorder, err)
	response := recorder.Result()
	return fault.Read(response), response.StatusCode
}

func TestFaultsCrossTheWireUnchanged(t *testing.T) {
	for _, code := range everyCode {
		for _, sent := range []*fault.Fault{
			fault.New(code, "it is so"),
			fault.New(code, "it is so").About("ns/name").WithRemedy("do this"),
			{Code: code, Field: "spec.ttl", Object: "ns/name", Sentence: "spec.ttl: must be positive", Remedy: "set it"},
		} {
			got, status := cross(t, sent)
			if got.Code != sent.Code || got.Field != sent.Field || got.Object != sent.Object || got.Sentence != sent.Sentence || got.Remedy != sent.Remedy {
				t.Errorf("sent %+v, got %+v", sent, got)
			}
			if got.Error() != sent.Error() || !errors.Is(got, code) || !errors.Is(got, sent) || status < 400 {
				t.Errorf("%s: sent %q, got %q with status %d", code, sent, got, status)
			}
			if read := fault.Of(sent.StatusError(schema.GroupResource{Group: "g", Resource: "things"}, "name")); read.Code != code || read.Field != sent.Field || read.Remedy != sent.Remedy || read.Sentence != sent.Sentence {
				t.Errorf("%s: the API tells %+v of %+v", code, read, sent)
			}
			again, _ := cross(t, got)
			if again.Error() != sent.Error() {
				t.Errorf("%s: twice across: %q", code, again)
			}
		}
	}
}

// What layers add is kept, and the remedy stays at the end.
func TestLayersAreKept(t *testing.T) {
	inner := fault.New(fault.TokenUsed, "the token has been used").WithRemedy("make another")
	wrapped := fmt.Errorf("join the mesh at host1: %w", inner)
	got, _ := cross(t, wrapped)
	if want := "join the mesh at host1: the token has been used; make another"; got.Error() != want || got.Remedy != "make another" {
		t.Errorf("got %q, want %q", got, want)
	}
	if !errors.Is(wrapped, fault.TokenUsed) || errors.Is(wrapped, fault.TokenExpired) || !errors.Is(got, fault.TokenUsed) {
		t.Error("the code is lost in the layers")
	}
	cause := errors.New("disk on fire")
	if err := fault.New(fault.Internal, "write: %w", cause); !errors.Is(err, cause) || err.Error() != "write: disk on fire" {
		t.Errorf("got %v", err)
	}
	if err := fmt.Errorf("instance ns/vm: %w", fault.NotFound); fault.Of(err).Code != fault.NotFound || fault.Of(err).Error() != "instance ns/vm: not found" {
		t.Errorf("a bare code becomes %+v", fault.Of(err))
	}
}

// People are not told of the machinery.
func TestInnerPackagesSpeakPlainly(t *testing.T) {
	refused := &raftstore.ConstraintError{Name: "volume-once", Version: 1, Reason: "volume ns/s1 is in use by virtual machine ns/a"}
	for _, test := range []struct {
		err      error
		code     fault.Code
		sentence string
	}{
		{fmt.Errorf("attach: %w", refused), fault.Conflict, "attach: volume ns/s1 is in use by virtual machine ns/a"},
		{fmt.Errorf("commit: %w", raftstore.ErrNoLeader), fault.Unavailable, "commit: the mesh has no leader"},
		{&raftstore.ConflictError{Key: "/k", Want: 3, Current: &raftstore.Record{ModRevision: 4}}, fault.Conflict, "another change was committed first"},
		{raftstore.ErrNotFound, fault.NotFound, "not found"},
		{apierrors.NewNotFound(schema.GroupResource{Resource: "nodes"}, "host9"), fault.NotFound, `nodes "host9" not found`},
		{context.DeadlineExceeded, fault.Unavailable, "the operation timed out"},
		{errors.Join(errors.New("one"), errors.New("two")), fault.Internal, "one; two"},
		{&raftstore.ConflictError{Key: "/k", Current: &raftstore.Record{ModRevision: 3}}, fault.AlreadyExists, "already exists"},
		{&raftstore.ConflictError{Key: "/k", Want: 3}, fault.NotFound, "not found"},
		{fmt.Errorf("volume ns-disk: %w", storage.ErrNotFound), fault.NotFound, "volume ns-disk: not found"},
		{fmt.Errorf("open store: %w: knows level 1", raftstore.ErrFeatureLevel), fault.TooOld, "open store: this version does not fit the mesh: knows level 1"},
		{fmt.Errorf("open store: %w: knows level 3", raftstore.ErrTooNew), fault.TooNew, "open store: this version does not fit the mesh: knows level 3"},
		{fmt.Errorf("create ns-disk: %w", storage.ErrNoSpace), fault.Unavailable, "create ns-disk: no space left in pool"},
		{fmt.Errorf("delete ns-disk: %w", storage.ErrBusy), fault.Conflict, "delete ns-disk: volume is busy"},
	} {
		got := fault.Of(test.err)
		if got.Code != test.code || !strings.HasPrefix(got.Sentence, test.sentence) || strings.Contains(got.Error(), "raftstore:") {
			t.Errorf("%v becomes %s %q, want %s %q", test.err, got.Code, got, test.code, test.sentence)
		}
		if !errors.Is(got, test.err) {
			t.Errorf("%v is lost", test.err)
		}
	}
	if fault.Of(nil) != nil || fault.CodeOf(nil) != "" || fault.Known(errors.New("x")) || !fault.Known(refused) {
		t.Error("what is known of nil, of a strange error or of a refusal")
	}
}

func TestFieldsAreNamed(t *testing.T) {
	err := fault.InField("ttl", "must be at most %dh", 720)
	if err.Error() != "ttl must be at most 720h" || err.Field != "ttl" || !errors.Is(err, fault.Invalid) {
		t.Errorf("%+v", err)
	}
	if status := err.Status(); status.Code != http.StatusBadRequest || status.Details.Causes[0].Field != "ttl" {
		t.Errorf("%+v", status)
	}
}

// Whatever answers, the caller has an error that says something.
func TestStrangeAnswers(t *testing.T) {
	for _, body := range []string{"", "<html>", "{}", `{"message":"no"}`, `{"kind":"Status","message":"a\nb","reason":"Conflict"}`, `{"details":{"causes":[{"type":"virtmesh.io/New","message":"m"}]},"message":"m"}`} {
		recorder := httptest.NewRecorder()
		recorder.WriteHeader(http.StatusTeapot)
		recorder.WriteString(body)
		if got := fault.Read(recorder.Result()); got.Error() == "" || strings.Contains(got.Error(), "\n") || got.Code == "" {
			t.Errorf("%q is read as %+v", body, got)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"message":"x","reason":"NotFound","details":{"name":"n","causes":[{"type":"virtmesh.io/","field":"f"}]}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		recorder := httptest.NewRecorder()
		recorder.Write(body)
		got := fault.Read(recorder.Result())
		if got.Code == "" || got.Error() == "" || strings.ContainsAny(got.Error(), "\r\n") {
			t.Errorf("%q is read as %+v", body, got)
		}
	})
}
