// Package audit writes down who did what through this host's APIs: the Kubernetes API and the
// administration API. The format, the policies and their meaning are Kubernetes's
// (audit.k8s.io/v1); the file is rotated by size. Each host writes what was asked of it.
//
// Invariants: what the default policy records holds no request or response body, so no Secret and
// no token; strangers, whom anything refuses before it knows them, write nothing, and so cannot
// push out what others did; an event that cannot be written never fails a request.
package audit
