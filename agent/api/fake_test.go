package api_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/port/guests"
)

var getOptions = metav1.GetOptions{}

// fakeInstances stands for the hosts that run instances. Its streams echo.
type fakeInstances struct {
	mu     sync.Mutex
	paused map[string]bool
	err    error
	// acts are the other acts on guests, and streams the streams that were opened.
	acts    []string
	streams []guests.StreamRequest
}

var _ guests.Instances = (*fakeInstances)(nil)

func newFakeInstances() *fakeInstances { return &fakeInstances{paused: map[string]bool{}} }

func (f *fakeInstances) Stream(_ context.Context, _, _ string, request guests.StreamRequest) (io.ReadWriteCloser, error) {
	f.mu.Lock()
	f.streams = append(f.streams, request)
	f.mu.Unlock()
	if f.err != nil {
		return nil, f.err
	}
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		_, _ = io.Copy(far, far)
	}()
	return near, nil
}

func (f *fakeInstances) set(namespace, name string, paused bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.paused[namespace+"/"+name] = paused
	return f.err
}

func (f *fakeInstances) Pause(_ context.Context, namespace, name string) error {
	return f.set(namespace, name, true)
}

func (f *fakeInstances) Unpause(_ context.Context, namespace, name string) error {
	return f.set(namespace, name, false)
}

func (f *fakeInstances) isPaused(namespace, name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.paused[namespace+"/"+name]
}

func (f *fakeInstances) act(format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.acts = append(f.acts, fmt.Sprintf(format, args...))
	return f.err
}

// opened returns the streams that were opened since the last call.
func (f *fakeInstances) opened() []guests.StreamRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() { f.streams = nil }()
	return f.streams
}

// taken returns the acts since the last call.
func (f *fakeInstances) taken() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() { f.acts = nil }()
	return strings.Join(f.acts, ", ")
}

func (f *fakeInstances) Reboot(_ context.Context, namespace, name string) error {
	return f.act("reboot %s/%s", namespace, name)
}

func (f *fakeInstances) Reset(_ context.Context, namespace, name string) error {
	return f.act("reset %s/%s", namespace, name)
}

func (f *fakeInstances) Freeze(_ context.Context, namespace, name string, limit time.Duration) error {
	return f.act("freeze %s/%s for %s", namespace, name, limit)
}

func (f *fakeInstances) Unfreeze(_ context.Context, namespace, name string) error {
	return f.act("unfreeze %s/%s", namespace, name)
}

func (f *fakeInstances) Screenshot(_ context.Context, namespace, name string, wake bool) ([]byte, error) {
	return []byte("picture"), f.act("picture of %s/%s, woken %v", namespace, name, wake)
}

func (f *fakeInstances) GuestOSInfo(context.Context, string, string) (*kubevirtv1.VirtualMachineInstanceGuestAgentInfo, error) {
	return &kubevirtv1.VirtualMachineInstanceGuestAgentInfo{Hostname: "guest"}, f.err
}

func (f *fakeInstances) Users(context.Context, string, string) (*kubevirtv1.VirtualMachineInstanceGuestOSUserList, error) {
	return &kubevirtv1.VirtualMachineInstanceGuestOSUserList{Items: []kubevirtv1.VirtualMachineInstanceGuestOSUser{{UserName: "root"}}}, f.err
}

func (f *fakeInstances) Filesystems(context.Context, string, string) (*kubevirtv1.VirtualMachineInstanceFileSystemList, error) {
	return &kubevirtv1.VirtualMachineInstanceFileSystemList{}, f.err
}
