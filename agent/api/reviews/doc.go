// Package reviews tells a client who it is and what it may do. It serves the resources
// behind kubectl auth whoami and kubectl auth can-i. A review is answered in the
// response to its creation; nothing is stored.
package reviews
