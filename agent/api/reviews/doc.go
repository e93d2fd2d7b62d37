// Package reviews answers who a client is and what it may do: the resources behind
// kubectl auth whoami and kubectl auth can-i. They are created, answered and
// forgotten; nothing is stored.
package reviews
