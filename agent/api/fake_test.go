package api_test

import (
	"context"
	"io"
	"net"
	"sync"

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
}

var _ guests.Instances = (*fakeInstances)(nil)

func newFakeInstances() *fakeInstances { return &fakeInstances{paused: map[string]bool{}} }

func (f *fakeInstances) Stream(_ context.Context, _, _ string, _ guests.StreamKind) (io.ReadWriteCloser, error) {
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

func (f *fakeInstances) GuestOSInfo(context.Context, string, string) (*kubevirtv1.VirtualMachineInstanceGuestAgentInfo, error) {
	return &kubevirtv1.VirtualMachineInstanceGuestAgentInfo{Hostname: "guest"}, f.err
}

func (f *fakeInstances) Users(context.Context, string, string) (*kubevirtv1.VirtualMachineInstanceGuestOSUserList, error) {
	return &kubevirtv1.VirtualMachineInstanceGuestOSUserList{Items: []kubevirtv1.VirtualMachineInstanceGuestOSUser{{UserName: "root"}}}, f.err
}

func (f *fakeInstances) Filesystems(context.Context, string, string) (*kubevirtv1.VirtualMachineInstanceFileSystemList, error) {
	return &kubevirtv1.VirtualMachineInstanceFileSystemList{}, f.err
}
