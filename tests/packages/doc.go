// Package packages tests the Debian package in dist, which 'make packages-deb' builds: what
// is in it, that building it again gives the same, and what its maintainer scripts do on a
// machine. The machine is this one, with all changes kept apart in an overlay and systemd
// replaced by a program that writes down what it is asked. The build tag 'packages' selects
// the tests.
package packages
