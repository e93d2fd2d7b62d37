package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/cert"

	"virtmesh/agent/identity"
	"virtmesh/storage/durable"
)

// kubeconfigRest is how long a lab's kubeconfigs work at least after Up. New ones work for as
// long as a mesh allows.
const kubeconfigRest = 24 * time.Hour

// writeKubeconfig writes the administrator's kubeconfig for a host, unless there is one that
// works for a while yet.
func (l *Lab) writeKubeconfig(ctx context.Context, h Host) error {
	path := l.Kubeconfig(h)
	if works, err := kubeconfigWorks(path, time.Now().Add(kubeconfigRest)); err != nil {
		return fmt.Errorf("the kubeconfig of %s: %w; delete %s to have a new one written", h.Name, err, path)
	} else if works {
		return nil
	}
	kubeconfig, err := l.virtmesh(ctx, h, "kubeconfig", "--name", "lab-"+h.Name, "--ttl", identity.MaxAdminLifetime.String())
	if err != nil {
		return err
	}
	if err := durable.WriteFile(path, []byte(kubeconfig), 0o600); err != nil {
		return fmt.Errorf("write the kubeconfig of %s: %w", h.Name, err)
	}
	return nil
}

// kubeconfigWorks reports whether there is a kubeconfig and no certificate in it ends before
// a time.
func kubeconfigWorks(path string, until time.Time) (bool, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	config, err := clientcmd.Load(data)
	if err != nil {
		return false, err
	}
	for name, user := range config.AuthInfos {
		if len(user.ClientCertificateData) == 0 {
			continue
		}
		certificates, err := cert.ParseCertsPEM(user.ClientCertificateData)
		if err != nil {
			return false, fmt.Errorf("certificate of %s: %w", name, err)
		}
		if certificates[0].NotAfter.Before(until) {
			return false, nil
		}
	}
	return true, nil
}
