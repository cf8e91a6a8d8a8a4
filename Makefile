# SPDX-License-Identifier: Apache-2.0
# Two commands do everything on a fresh Debian as root: make demo, make test. `make help` lists the rest.

DESTDIR ?=
BUILD := build
VENV := $(BUILD)/venv
PYTHON ?= /usr/bin/python3
# Of the machine that the project is installed on; its FDK wheels must fit.
PYTHON_VERSION ?= $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
CC ?= gcc
CFLAGS ?= -O2 -g
AGENT_CFLAGS := -std=gnu11 -Wall -Wextra -Werror -Wswitch-enum -static -D_FORTIFY_SOURCE=2 -fstack-protector-strong
# The FDK: Debian has none. Its httptools is Debian's own, but for Debian 12, where that is older than the FDK takes. What
# builds without a network gives a directory with the FDK's source instead (see docs/packaging.md).
FDK_VERSION := 0.1.128
FDK ?= fdk==$(FDK_VERSION) $(if $(filter 3.11,$(PYTHON_VERSION)),httptools==0.9.0)
FDK_PIP ?= --only-binary=:all: --implementation cp --python-version $(PYTHON_VERSION)
LIB := $(DESTDIR)/usr/lib/boesfs
# Where `make -C bpf OUT=…` has put the policy program and boesfsd's way to it; none: only enforcement = landlock.
BPF ?=
AGENT_SOURCES := $(wildcard agent/*.c)
AGENT_SOURCES := $(filter-out agent/seccomp-profile.c,$(AGENT_SOURCES))

.PHONY: all help host-packages venv install demo demo-vm test unit lint appliance-test deb rpm package-test test-vm test-vm-full bench bench-vm mutate fuzz soak clean
all: $(BUILD)/boesfs-agent $(BUILD)/function.bpf $(BUILD)/system-calls

help:
	@echo "make demo            boot an appliance, deploy a function, call it, show what it may not do"
	@echo "make demo-vm         the same with packages, on a kernel of its own with BoesFS: what a function that means harm meets"
	@echo "make test            all tests (make unit, make appliance-test and make test-vm are its parts)"
	@echo "make test-vm-full    the kernel module's long tests; make test-vm KERNEL=debug: on a kernel that checks itself"
	@echo "make bench           cold and warm starts beside other ways to run the same function"
	@echo "make bench-vm        what BoesFS costs, in instructions of an emulated machine, beside its peers"
	@echo "make mutate          the kernel module with one check removed, again and again: a test has to fail each time"
	@echo "make soak            the long runs"
	@echo "make deb rpm         packages, in build/deb and build/rpm"
	@echo "make install DESTDIR=…   lay out the project as on a host"

$(BUILD):
	@mkdir -p $@

# What building, the appliance and the tests need on a Debian machine. dpkg is asked first: it is quick.
HOST_PACKAGES := dpkg-dev gcc libc6-dev libseccomp-dev make mmdebstrap systemd-container curl rsync python3-venv python3-pip \
	python3-aiosqlite python3-dbus-next python3-httptools python3-jsonschema python3-pyroute2 python3-pystemd \
	python3-sdnotify python3-uvloop python3-yaml xz-utils zstd e2fsprogs perl
host-packages:
	@missing=$$(for p in $(HOST_PACKAGES); do dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || echo $$p; done); \
	if [ -n "$$missing" ]; then echo "Installing" $$missing; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; fi

# Debian's Python and its packages, as on a host; from PyPI only the tools of the tests.
$(VENV)/.done: | host-packages
	/usr/bin/python3 -m venv --system-site-packages $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check pytest==8.4.2 pytest-xdist==3.8.0 ruff==0.14.5 mypy==1.18.2 \
		types-PyYAML types-jsonschema
	touch $@
venv: $(VENV)/.done

$(BUILD)/seccomp-profile: agent/seccomp-profile.c | $(BUILD)
	$(CC) $(CFLAGS) -Wall -Wextra -Werror $< -o $@ -lseccomp

$(BUILD)/function.bpf: $(BUILD)/seccomp-profile
	$< filter > $@.part && mv $@.part $@

$(BUILD)/system-calls: $(BUILD)/seccomp-profile
	$< allowed > $@.part && mv $@.part $@

$(BUILD)/syscall_names.h: $(BUILD)/seccomp-profile
	$< names > $@.part && mv $@.part $@

$(BUILD)/boesfs-agent: $(AGENT_SOURCES) $(wildcard agent/*.h) $(BUILD)/syscall_names.h
	$(CC) $(CFLAGS) $(AGENT_CFLAGS) -I$(BUILD) $(AGENT_SOURCES) -o $@

# The stock FDK, unmodified, for the runtime's Python. Its other declared dependencies are those of its own tests.
$(BUILD)/fdk-$(PYTHON_VERSION)/.done: | $(BUILD)
	rm -rf $(@D)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --target $(@D) --no-deps --no-compile \
		$(FDK_PIP) $(FDK)
	sed -i '1s|.*|#!/usr/bin/python3|' $(@D)/bin/fdk
	rm -f $(@D)/*.dist-info/direct_url.json && sed -i '/direct_url.json/d' $(@D)/fdk-*.dist-info/RECORD
	touch $@

install: all $(BUILD)/fdk-$(PYTHON_VERSION)/.done
	install -d $(LIB)/runtimes $(LIB)/python $(DESTDIR)/usr/sbin $(DESTDIR)/usr/lib/systemd/system \
		$(DESTDIR)/usr/lib/sysusers.d $(DESTDIR)/usr/lib/tmpfiles.d $(DESTDIR)/usr/share/dbus-1/system.d $(DESTDIR)/usr/share/dbus-1/system-services \
		$(DESTDIR)/usr/share/dbus-1/interfaces $(DESTDIR)/usr/share/polkit-1/actions $(DESTDIR)/etc/boesfsd/conf.d \
		$(DESTDIR)/usr/bin $(DESTDIR)/usr/share/man/man1 $(DESTDIR)/usr/share/man/man5 $(DESTDIR)/usr/share/man/man8 $(DESTDIR)/usr/share/doc/boesfsd
	install -m 0755 $(BUILD)/boesfs-agent $(LIB)/
	install -m 0644 $(BUILD)/function.bpf $(BUILD)/system-calls $(LIB)/
	rm -rf $(LIB)/python/boesfsd $(LIB)/runtimes/python
	cp -r boesfsd $(LIB)/python/
	find $(LIB)/python -name __pycache__ -prune -exec rm -rf {} +
	cp -r $(BUILD)/fdk-$(PYTHON_VERSION) $(LIB)/runtimes/python
	rm $(LIB)/runtimes/python/.done
	install -d $(LIB)/runtimes/python/httptools
	install -m 0644 etc/runtimes/*.toml $(LIB)/runtimes/
	$(if $(filter httptools%,$(FDK)),sed -i '/httptools/d' $(LIB)/runtimes/python.toml)
	install -m 0644 etc/run.toml $(LIB)/
	install -m 0755 etc/boesfsd.launcher $(DESTDIR)/usr/sbin/boesfsd
	install -m 0755 etc/boesfsctl.launcher $(DESTDIR)/usr/bin/boesfsctl
	install -m 0755 etc/boesfs.launcher $(DESTDIR)/usr/bin/boesfs
	ln -sf boesfs $(DESTDIR)/usr/bin/gofs
	install -m 0755 etc/boesfs-net.launcher $(LIB)/boesfs-net
	install -m 0755 etc/boesfs-setup.launcher $(LIB)/boesfs-setup
	$(if $(BPF),install -m 0644 $(BPF)/boesfs_policy.bpf.o $(LIB)/)
	$(if $(BPF),install -m 0644 $(BPF)/_boesfs_bpf.abi3.so $(LIB)/python/)
	install -d $(DESTDIR)/usr/include/boesfs
	install -m 0644 kmod/boesfs_abi.h bpf/boesfs.bpf.h $(DESTDIR)/usr/include/boesfs/
	install -m 0644 units/*.service units/*.socket units/*.slice $(DESTDIR)/usr/lib/systemd/system/
	install -m 0644 etc/sysusers.conf $(DESTDIR)/usr/lib/sysusers.d/boesfsd.conf
	install -d $(DESTDIR)/usr/lib/systemd/catalog
	install -m 0644 etc/boesfs.catalog $(DESTDIR)/usr/lib/systemd/catalog/
	install -m 0644 etc/tmpfiles.conf $(DESTDIR)/usr/lib/tmpfiles.d/boesfsd.conf
	install -m 0644 etc/org.boesfs.Faas1.conf $(DESTDIR)/usr/share/dbus-1/system.d/
	install -m 0644 etc/org.boesfs.Faas1.service $(DESTDIR)/usr/share/dbus-1/system-services/
	install -m 0644 boesfsd/bus/org.boesfs.Faas1.xml $(DESTDIR)/usr/share/dbus-1/interfaces/
	install -m 0644 etc/org.boesfs.faas1.policy $(DESTDIR)/usr/share/polkit-1/actions/
	install -m 0644 docs/man/*.1 $(DESTDIR)/usr/share/man/man1/
	ln -sf boesfs.1 $(DESTDIR)/usr/share/man/man1/gofs.1
	install -m 0644 docs/man/*.5 $(DESTDIR)/usr/share/man/man5/
	install -m 0644 docs/man/*.8 $(DESTDIR)/usr/share/man/man8/
	install -m 0644 README.md docs/*.md $(DESTDIR)/usr/share/doc/boesfsd/
	rm -rf $(DESTDIR)/usr/share/doc/boesfsd/examples
	cp -r examples $(DESTDIR)/usr/share/doc/boesfsd/
	[ -e $(DESTDIR)/etc/boesfsd/boesfsd.conf ] || install -m 0644 etc/boesfsd.conf $(DESTDIR)/etc/boesfsd/
	[ -e $(DESTDIR)/etc/boesfsd/policy.yaml ] || install -m 0644 etc/policy.yaml $(DESTDIR)/etc/boesfsd/
	if [ -x "$(DESTDIR)/usr/bin/python3" ]; then chroot "$(DESTDIR)/" /usr/bin/python3 -m compileall -q /usr/lib/boesfs; fi

demo: host-packages
	@$(PYTHON) tests/appliance/demo.py

# The product as packages on a kernel of its own, in an emulated machine: some five minutes.
demo-vm: host-packages
	@$(PYTHON) tests/vm/demo_vm.py

# Levels: unit (pure parts and adapters with the real things they own), appliance (real systemd), packages (as a host
# gets them), vm (a kernel of its own, for limits).
test: host-packages
	@tests/stage.sh unit 5 $(MAKE) --no-print-directory unit
	@tests/stage.sh appliance 20 $(MAKE) --no-print-directory appliance-test
	@tests/stage.sh packages 10 $(MAKE) --no-print-directory package-test
	@tests/stage.sh vm 30 $(MAKE) --no-print-directory test-vm
unit: $(VENV)/.done all
	$(VENV)/bin/python -m pytest tests/unit -n 2 --durations 5

appliance-test: $(VENV)/.done all
	$(VENV)/bin/python -m pytest tests/appliance -n 4 --dist loadgroup --durations 10 --ignore tests/appliance/test_floors.py
	$(VENV)/bin/python -m pytest tests/appliance/test_floors.py --durations 10

# In clean chroots of Debian 13: docs/packaging.md. They are left in build/deb and build/rpm.
deb rpm: host-packages
	$(PYTHON) packaging/packages.py $@

package-test: $(VENV)/.done
	$(VENV)/bin/python -m pytest tests/packages --durations 5

# KERNEL=debug: the kernel module's tests alone, on a kernel that is built for it (15 minutes) and checks itself.
test-vm: $(VENV)/.done all
	BOESFS_KERNEL=$(KERNEL) $(VENV)/bin/python -m pytest $(if $(KERNEL),tests/vm/test_kernel.py,tests/vm) --durations 3

# The long tests of the kernel module too: fsx, random trees, each stressor by itself. About half an hour.
test-vm-full: host-packages $(VENV)/.done all
	BOESFS_FULL=1 $(VENV)/bin/python -m pytest tests/vm --durations 10

lint: $(VENV)/.done
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The floors with ten times the rounds, and those tests of the kernel module that may go on for long with three times the
# work.
soak: host-packages $(VENV)/.done all
	BOESFS_SOAK=10 $(VENV)/bin/python -m pytest tests/appliance/test_floors.py --durations 10
	BOESFS_FULL=1 BOESFS_SCALE=3 $(VENV)/bin/python -m pytest tests/vm/test_kernel.py -k full_ --durations 10

bench: host-packages $(VENV)/.done
	@dpkg-query -W -f '' docker.io crun runc 2>/dev/null || apt-get install -y -qq --no-install-recommends docker.io crun runc
	$(VENV)/bin/python tests/bench/host.py
	$(VENV)/bin/python tests/bench/dropins.py
	$(VENV)/bin/python tests/bench/policies.py

# Instructions of the guest, so it may run beside other things: about ten minutes.
bench-vm: host-packages $(VENV)/.done
	$(VENV)/bin/python tests/bench/vm.py

mutate: host-packages $(VENV)/.done
	$(VENV)/bin/python tests/vm/mutate.py

# Texts that follow the branches of the policies' readers, for an hour (SECONDS=…); what fails is left in build/fuzz.
fuzz: $(VENV)/.done
	$(VENV)/bin/pip install --quiet --disable-pip-version-check atheris==3.0.0
	$(VENV)/bin/python tests/fuzz/fuzz.py $(SECONDS)

clean:
	rm -rf $(BUILD)/boesfs-agent $(BUILD)/function.bpf $(BUILD)/system-calls $(BUILD)/syscall_names.h $(BUILD)/seccomp-profile $(BUILD)/fdk-*
