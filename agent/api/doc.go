// Package api is the Kubernetes-style API that every host serves: the kinds of
// package kinds and KubeVirt's subresources, with discovery, OpenAPI, watch,
// server-side apply, dry-run and table output, so that kubectl and virtctl work
// against any host as they are.
//
// A Server does not listen. It gives an http.Handler to whoever owns the TLS port;
// client certificates are taken from the connection's TLS state.
//
// What a host answers is linearizable unless the client asks for less, because all
// objects live in the replicated store. The package keeps no state of its own and
// takes no decisions about virtual machines: it writes what is wanted, and package
// controllers act on it. No other package imports k8s.io/apiserver.
package api
