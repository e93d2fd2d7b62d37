// Package api is the Kubernetes-style API that every host serves: the kinds of package
// kinds and KubeVirt's subresources, with discovery, OpenAPI, watch, server-side apply,
// dry-run and table output. So kubectl and virtctl work unmodified against any host.
//
// A Server does not listen. It provides an http.Handler to the owner of the TLS port,
// and reads client certificates from the connection's TLS state.
//
// Answers are linearizable unless the client requests less, because all objects are in
// the replicated store. The package has no state of its own and makes no decisions
// about virtual machines: it writes the desired state, and the loops of agent/stewards
// and agent/host act on it. No other package imports k8s.io/apiserver.
package api
