/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A livepatch (Documentation/livepatch) that has ns_capable replaced by a function of no known name, which asks security_capable
 * by itself. */
#include <linux/cred.h>
#include <linux/kprobes.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static int (*ask)(const struct cred *, struct user_namespace *, int, unsigned int);

static noinline bool patched_ns_capable(struct user_namespace *ns, int cap)
{
	bool granted = !ask(current_cred(), ns, cap, 0);

	barrier(); /* else the call is a jump, and this function not on the stack */
	return granted;
}

static struct klp_func functions[] = { { .old_name = "ns_capable", .new_func = patched_ns_capable }, {} };
static struct klp_object objects[] = { { .funcs = functions }, {} };
static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objects };

static int __init patched_init(void)
{
	struct kprobe p = { .symbol_name = "security_capable" }; /* which modules are not given */
	int err = register_kprobe(&p);

	if (err)
		return err;
	ask = (void *)p.addr;
	unregister_kprobe(&p);
	return klp_enable_patch(&patch);
}

static void __exit patched_exit(void) {}

module_init(patched_init);
module_exit(patched_exit);
MODULE_LICENSE("Dual BSD/GPL");

/* What the kernel's own build adds (scripts/mod/modpost.c). */
MODULE_INFO(livepatch, "Y");
MODULE_INFO(name, KBUILD_MODNAME);
MODULE_INFO(vermagic, "");
__visible struct module __this_module __section(".gnu.linkonce.this_module") = {
	.name = KBUILD_MODNAME,
	.init = init_module,
	.exit = cleanup_module,
	.arch = MODULE_ARCH_INIT,
};
