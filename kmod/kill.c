// SPDX-License-Identifier: GPL-2.0-only
/* The end of those whom a policy does not suffer any longer. */
#include <linux/mm.h>
#include <linux/pid_namespace.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>

#include "boesfs.h"
#include "kfuncs.h"

/*
 * A sandbox is a PID namespace: with its init ends the whole instance. The host's own init takes no
 * SIGKILL.
 */
static void kill_process(struct task_struct *task)
{
	struct pid_namespace *ns;

	if (task->flags & PF_KTHREAD)
		return;
	rcu_read_lock();
	ns = task_active_pid_ns(task);
	if (ns)
		kill_pid(find_pid_ns(1, ns), SIGKILL, 1);
	kill_pid(task_tgid(task), SIGKILL, 1);
	rcu_read_unlock();
}

void boesfs_kill_caller(void)
{
	kill_process(current);
}

static bool is_of_mounts(const struct file *file, const struct boesfs_mounts *mounts)
{
	const struct path *user = file_user_path(file);
	const struct super_block *sb = user->dentry->d_sb;
	const struct vfsmount *above = sb->s_type == &boesfs_type ? boesfs_sb(sb)->lower : NULL;
	unsigned int i;

	/*
	 * Only boesfs opens files on its private clones of mounts. A mapping's file is the lowest
	 * one: ours if boesfs is the lowest that stacks, else that of overlayfs or boesfs below,
	 * which tells the file that it was opened for: ours, or, where backing_file_open() takes a
	 * file, the one that somebody has opened on the uppermost mount, which is ours then, since
	 * no more than two stack.
	 */
	for (i = 0; i < mounts->count; i++)
		if (file->f_path.mnt == mounts->lower[i] || user->mnt == mounts->lower[i] ||
		    above == mounts->lower[i])
			return true;
	return false;
}

/* Whether it does; -EINTR: we are killed while we wait for it. */
static int maps_file_of(struct mm_struct *mm, const struct boesfs_mounts *mounts)
{
	struct vm_area_struct *vma;
	int found = 0;

	if (mmap_read_lock_killable(mm))
		return -EINTR;
	{
		VMA_ITERATOR(vmi, mm, 0);

		for_each_vma(vmi, vma) {
			if (vma->vm_file && is_of_mounts(vma->vm_file, mounts)) {
				found = 1;
				break;
			}
		}
	}
	mmap_read_unlock(mm);
	return found;
}

/**
 * boesfs_kill_mapped - SIGKILL to every process that has a file of these mounts mapped.
 * @mounts: the private mounts that they are on
 *
 * Who forks meanwhile is found later in the list of tasks; new mappings are judged by the new
 * policy already.
 *
 * Return: 0; -EINTR: the caller was killed before all were looked at.
 */
int boesfs_kill_mapped(const struct boesfs_mounts *mounts)
{
	struct task_struct *process, *thread;
	struct mm_struct *mm;
	int found;

again:
	rcu_read_lock();
	for_each_process(process) {
		mm = NULL;
		for_each_thread(process, thread) {
			mm = thread->flags & PF_KTHREAD ? NULL : get_task_mm(thread);
			if (mm)
				break;
		}
		if (!mm)
			continue;
		if (fatal_signal_pending(thread)) { /* is ending; perhaps because of us */
			mmput_async(mm);
			continue;
		}
		get_task_struct(process);
		rcu_read_unlock();
		found = maps_file_of(mm, mounts);
		if (found > 0)
			kill_process(process);
		mmput(mm);
		if (found < 0) {
			put_task_struct(process);
			return found;
		}
		rcu_read_lock();
		if (!pid_alive(process)) { /* cannot go on from it */
			rcu_read_unlock();
			put_task_struct(process);
			cond_resched();
			goto again;
		}
		put_task_struct(process);
	}
	rcu_read_unlock();
	return 0;
}
